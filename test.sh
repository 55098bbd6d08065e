#!/usr/bin/env bash
# Installs what is missing, builds, and runs every test.
#   ./test.sh            all tests, optimised build; with the GPUs' where nvcc is found
#   ./test.sh --full     the same, long ones at full length
#   ./test.sh --cpu      all tests, without the GPUs' whatever is found
#   ./test.sh --asan     all tests under AddressSanitizer and UndefinedBehaviorSanitizer
#   ./test.sh --tsan     the communicator and scheduler tests under ThreadSanitizer
set -euo pipefail
cd "$(dirname "$0")"

# The preset cuda holds all that cpu holds. It needs no GPU: what would run on one is skipped, by name.
preset=cpu
nvcc=$(PATH=$PATH:/usr/local/cuda/bin command -v nvcc || true)
[ -z "$nvcc" ] || preset=cuda
target=all
select=()
fuzz=no
case "${1:-}" in
  "") fuzz=yes ;;
  --full) fuzz=yes; export POLYSTRATE_FULL_TESTS=1 ;;
  --cpu) fuzz=yes; preset=cpu ;;
  --asan) preset=cpu-asan ;;
  --tsan) preset=cpu-tsan; target=tsan_tests; select=(--label-regex -tsan) ;;
  *) echo "usage: ./test.sh [--full | --cpu | --asan | --tsan]" >&2; exit 2 ;;
esac

echo "== installing what is missing"
tools/install.sh
# A second checkout of the same sources compiles nothing twice.
export CCACHE_BASEDIR=$PWD CCACHE_NOHASHDIR=1
echo "== building (preset $preset)"
if [ -z "$nvcc" ]; then
  echo "no nvcc on PATH or in /usr/local/cuda/bin: the GPUs' kernels are not compiled, their tests not there"
fi
[ -f "build/$preset/build.ninja" ] || cmake --preset "$preset"
cmake --build --preset "$preset" --target "$target"
if [ "$fuzz" = yes ]; then
  echo "== building the fuzz targets (preset fuzz)"
  [ -f build/fuzz/build.ninja ] || cmake --preset fuzz
  cmake --build --preset fuzz
fi
echo "== testing"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
# Leaks in MPI, gRPC's and OpenMP's own start-up are not ours to mend.
export LSAN_OPTIONS=suppressions=$PWD/tests/lsan.supp:print_suppressions=0 ASAN_OPTIONS=detect_odr_violation=0
export TSAN_OPTIONS=suppressions=$PWD/tests/tsan.supp
ctest --preset "$preset" --parallel "$(nproc)" "${select[@]}"
