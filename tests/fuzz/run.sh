#!/usr/bin/env bash
# Runs one fuzz target of build/fuzz for a bounded time, from its seeds, within bounds of time and memory for each
# input. Fails when one breaks them or a promise; that input is then in build/fuzz/found/TARGET/, and
# `build/fuzz/TARGET_fuzz FILE` runs it alone.
#   tests/fuzz/run.sh TARGET    config, openai, request, safetensors, template or tokenizer
# The same numbers are drawn every time, so that an unchanged program does not fail by chance; with
# POLYSTRATE_FULL_TESTS (./test.sh --full) others, and for longer.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
target=$1
build=$here/../../build/fuzz
if [ ! -x "$build/${target}_fuzz" ]; then
  echo "build/fuzz/${target}_fuzz is not there: cmake --preset fuzz && cmake --build --preset fuzz" >&2
  exit 2
fi
seconds=10
seed=1
if [ -n "${POLYSTRATE_FULL_TESTS:-}" ]; then
  seconds=120
  seed=0
fi

seeds=$here/seeds/$target
[ "$target" != request ] || seeds=$build/seeds/request  # kept as text, encoded by the build
rm -rf "$build/corpus/$target"
mkdir -p "$build/corpus/$target" "$build/found/$target"
export ASAN_OPTIONS=quarantine_size_mb=16 LSAN_OPTIONS= UBSAN_OPTIONS=print_stacktrace=1
exec "$build/${target}_fuzz" -max_total_time=$seconds -seed=$seed -max_len=16384 -timeout=10 \
  -rss_limit_mb=1024 -malloc_limit_mb=256 -print_final_stats=1 -verbosity=1 \
  -dict="$here/$target.dict" -artifact_prefix="$build/found/$target/" \
  "$build/corpus/$target" "$seeds"
