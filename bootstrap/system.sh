# shellcheck shell=bash
# System packages, for install.sh to source: what is missing is installed when root, else named in one message.
# Debian's and Ubuntu's names; elsewhere the message says what to look for.

# Prints the first interpreter that is a working CPython 3.11 (a pyenv shim may exist and not run).
find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3.11 python3 /usr/bin/python3.11; do
        [ -n "$candidate" ] || continue
        if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

has_python() { find_python >/dev/null; }
has_venv() { "$(find_python)" -c 'import ensurepip, venv' 2>/dev/null; }
has_headers() {
    "$(find_python)" -c 'import os, sys, sysconfig as s; sys.exit(not os.path.exists(s.get_path("include") + "/Python.h"))'
}
has_compiler() { command -v "${CXX:-g++}" >/dev/null; }
has_make() { command -v make >/dev/null; }
has_mpi() { command -v mpicxx >/dev/null && command -v mpirun >/dev/null; }

# Sets needed (set-up stops without them) and wanted (it goes on) to the names of missing packages.
list_missing() {
    needed=()
    wanted=()
    if has_python; then
        has_venv || needed+=(python3.11-venv)
        has_headers || needed+=(python3.11-dev)
    else
        needed+=(python3.11 python3.11-venv python3.11-dev)
    fi
    has_compiler || needed+=(g++)
    has_make || needed+=(make)
    has_mpi || wanted+=(openmpi-bin libopenmpi-dev)
}

apt_install() {
    local log
    log=$(mktemp)
    say "installing system packages: $*"
    if ! { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"; } \
        >"$log" 2>&1 </dev/null; then
        tail -n 15 "$log" >&2
        rm -f "$log"
        return 1
    fi
    rm -f "$log"
}

ensure_system_packages() {
    local needed wanted
    list_missing
    [ $((${#needed[@]} + ${#wanted[@]})) -gt 0 ] || return 0
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        # Together first; when that fails, MPI must not take the rest down with it.
        apt_install "${needed[@]}" "${wanted[@]}" || [ ${#needed[@]} = 0 ] || apt_install "${needed[@]}" || true
        list_missing
    fi
    if [ ${#needed[@]} -gt 0 ]; then
        say "missing on this machine; as root:  apt-get update && apt-get install -y ${needed[*]} ${wanted[*]}"
        return 1
    fi
    [ ${#wanted[@]} = 0 ] \
        || say "no MPI here, going on with Gloo alone; for both, as root:  apt-get install -y ${wanted[*]}  and again make setup"
}
