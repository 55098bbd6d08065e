#!/usr/bin/env bash
# Installs what is missing, builds, and runs every test.
#   ./test.sh            all tests, optimised build
#   ./test.sh --full     the same, long ones at full length
#   ./test.sh --asan     all tests under AddressSanitizer and UndefinedBehaviorSanitizer
#   ./test.sh --tsan     the communicator and scheduler tests under ThreadSanitizer
set -euo pipefail
cd "$(dirname "$0")"

preset=cpu
target=all
select=()
fuzz=no
case "${1:-}" in
  "") fuzz=yes ;;
  --full) fuzz=yes; export POLYSTRATE_FULL_TESTS=1 ;;
  --asan) preset=cpu-asan ;;
  --tsan) preset=cpu-tsan; target=tsan_tests; select=(--label-regex -tsan) ;;
  *) echo "usage: ./test.sh [--full | --asan | --tsan]" >&2; exit 2 ;;
esac

echo "== installing what is missing"
tools/install.sh
# A second checkout of the same sources compiles nothing twice.
export CCACHE_BASEDIR=$PWD CCACHE_NOHASHDIR=1
echo "== building (preset $preset)"
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
