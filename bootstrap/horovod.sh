#!/usr/bin/env bash
# Builds Horovod's source release once into a user-level wheel cache; prints the wheel's path on stdout.
#
#   bootstrap/horovod.sh PYTHON        PYTHON: an interpreter that already has torch, tensorflow, cmake
#
# The key of the cache is everything the binary depends on: the versions, the features, the compiler, the C
# library and the processor architecture. Any change of one builds a wheel beside the others; nothing is
# overwritten. A wheel appears in the cache under its name only when it is whole, and one process builds at a time.
#
#   HVD_GQSGD_CACHE        the cache, default ${XDG_CACHE_HOME:-~/.cache}/hvd_gqsgd
#   HOROVOD_WITHOUT_TENSORFLOW=1      for PyTorch alone
#   HOROVOD_GPU_*, HOROVOD_NCCL_*, HOROVOD_CUDA_*, HOROVOD_BUILD_CUDA_*
#                          passed on to Horovod's own build, and part of the key
set -euo pipefail

[ -x "${1:-}" ] || { echo "usage: bootstrap/horovod.sh PYTHON" >&2; exit 2; }
# Not resolved further: a venv's interpreter is a link, and what it is called by is what makes it one.
folder=$(cd "$(dirname "$1")" && pwd)
python=$folder/$(basename "$1")
version=0.28.1
recipe=1 # raise it when the steps below change what comes out
cache=${HVD_GQSGD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/hvd_gqsgd}
cxx=${CXX:-g++}

say() { printf 'horovod: %s\n' "$*" >&2; }

tensorflow=HOROVOD_WITH_TENSORFLOW=1
[ "${HOROVOD_WITHOUT_TENSORFLOW:-0}" = 0 ] || tensorflow=HOROVOD_WITHOUT_TENSORFLOW=1
features=(HOROVOD_WITH_GLOO=1 HOROVOD_WITH_PYTORCH=1 "$tensorflow" HOROVOD_WITHOUT_MXNET=1)
if command -v mpicxx >/dev/null && command -v mpirun >/dev/null; then
    mpi=$(mpirun --version 2>&1 | sed -n 1p)
    features+=(HOROVOD_WITH_MPI=1)
else
    mpi=none
    features+=(HOROVOD_WITHOUT_MPI=1)
fi
while IFS= read -r setting; do
    features+=("$setting")
done < <(env | grep -E '^HOROVOD_(GPU|NCCL|CUDA|BUILD_CUDA)_' | sort)
# Not -march=native: a wheel cache in a shared home must run on every machine that reaches it. Horovod adds
# AVX and F16C itself only for these flags.
case $(uname -m) in
    x86_64) arch_flags="-mavx -mf16c -mfma" ;;
    *) arch_flags="" ;;
esac

versions=$("$python" - <<'PY'
import sys, importlib.metadata as m
have = {d.metadata["Name"].lower().replace("_", "-"): d.version for d in m.distributions()}
tf = next((f"{n}-{have[n]}" for n in ("tensorflow-cpu", "tensorflow") if n in have), "tensorflow-none")
print(f"cp{sys.version_info[0]}{sys.version_info[1]} torch-{have['torch']} {tf} numpy-{have['numpy']}")
PY
)
key="horovod-$version recipe-$recipe $versions mpi: $mpi; ${features[*]}; $cxx-$("$cxx" -dumpfullversion)"
key="$key $(getconf GNU_LIBC_VERSION 2>/dev/null || echo libc-unknown) $(uname -m) $arch_flags"
room=$cache/wheels/$(printf '%s' "$key" | sha256sum | cut -c 1-16)

take_wheel_if_there() {
    local wheel
    for wheel in "$room"/horovod-*.whl; do
        [ -f "$wheel" ] || continue
        echo "$wheel"
        exit 0
    done
}
take_wheel_if_there

mkdir -p "$room"
exec 9>"$room/lock"
if ! flock -n 9; then
    say "another set-up is building the same wheel, waiting for it"
    flock 9
    take_wheel_if_there
fi

work=$(mktemp -d)
trap 'rm -rf "$work" "$room"/.unfinished' EXIT
trap 'exit 130' INT TERM
log=$room/build.log
printf '%s\n' "$key" >"$room/key.txt"
src=$work/horovod-$version

# Linking TensorFlow's kernels takes about 1.5 GB per job: more jobs than that fit are killed, not slow.
jobs=$(nproc)
fit=$(awk '/^MemAvailable/ { print int($2 / 1500000) }' /proc/meminfo)
[ "$jobs" -le "$fit" ] || jobs=$fit
[ "$jobs" -ge 1 ] || jobs=1

fetch() {
    "$python" -m pip download -q --no-deps --no-build-isolation --no-binary horovod -d "$work" "horovod==$version" \
        && tar -C "$work" -xzf "$work/horovod-$version.tar.gz"
}

# The two build settings that PyTorch >= 2.1 needs; no line of Horovod's own code is touched.
raise_standard() {
    sed -i 's/^set(CMAKE_CXX_STANDARD 14)/set(CMAKE_CXX_STANDARD 17)/' "$src/CMakeLists.txt" \
        && sed -i 's/set(CMAKE_CXX_STANDARD 14)/set(CMAKE_CXX_STANDARD 20)/' "$src/horovod/torch/CMakeLists.txt" \
        && sed -i "s/'RelWithDebInfo'/'Release'/" "$src/setup.py" # half a gigabyte of debug symbols less
}

build() {
    # PATH: the cmake of constraints.txt, not the system's.
    cd "$src" && env "${features[@]}" HOROVOD_BUILD_ARCH_FLAGS="$arch_flags" MAKEFLAGS="-j$jobs" \
        PATH="$(dirname "$python"):$PATH" "$python" setup.py bdist_wheel
}

# make's own percentages are the progress: one line per 10 %, or one moving line on a terminal. Not awk: mawk,
# Debian's, holds back what it reads from a pipe until the end.
show_progress() {
    local line percent last=-1 seen=0
    while IFS= read -r line; do
        [[ $line =~ ^\[\ *([0-9]+)%\] ]] || continue
        percent=${BASH_REMATCH[1]}
        if [ -t 2 ]; then
            printf '\rhorovod: %3d %% built' "$percent" >&2
            seen=1
        elif [ $((percent / 10)) -gt "$last" ]; then
            last=$((percent / 10))
            say "$percent % built"
        fi
    done
    [ "$seen" = 0 ] || echo >&2
}

fail() {
    grep -m 5 -A 4 -iE 'cmake error|error:|fatal|killed' "$log" >&2 || tail -n 20 "$log" >&2
    say "$1; the whole log: $log"
    exit 1
}

say "building $version once for this machine (5 to 10 minutes on 2 cores, $jobs at a time), kept in $room"
started=$SECONDS
# 9>&-: what outlives a killed set-up must not keep the lock.
(exec 9>&- && fetch && raise_standard) >"$log" 2>&1 </dev/null || fail "its source release could not be fetched"
(exec 9>&- && build) 2>&1 </dev/null | (exec 9>&- && tee -a "$log") | (exec 9>&- && show_progress) \
    || fail "the build failed"

cp "$src"/dist/horovod-*.whl "$room/.unfinished" || fail "the build left no wheel"
wheel=$room/$(basename "$src"/dist/horovod-*.whl)
mv "$room/.unfinished" "$wheel"
say "built in $((SECONDS - started)) s"
echo "$wheel"
