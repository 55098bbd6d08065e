#!/usr/bin/env bash
# From a fresh clone to streamed text: installs what is missing, builds, starts four engine ranks
# (TP 2 x PP 2) on the CPU with the demo model, sends them a prompt over gRPC, and stops them.
# Usage: ./quickstart.sh [PROMPT]
set -euo pipefail
cd "$(dirname "$0")"

prompt=${1:-$'ROMEO:\n'}
model=models/demo
tp=2
pp=2
polystrate=build/cpu/polystrate
log=build/quickstart.log

step() { printf '\n== %s\n' "$*"; }

step "installing what is missing"
tools/install.sh

export CCACHE_BASEDIR=$PWD CCACHE_NOHASHDIR=1  # as test.sh, so that the two share objects
step "building (the first time takes a few minutes)"
[ -f build/cpu/build.ninja ] || cmake --preset cpu
cmake --build --preset cpu --target polystrate

# Open MPI refuses root without these two; Polystrate has nothing against it.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')

step "how $model is cut over $tp x $pp ranks"
"$polystrate" plan --model "$model" --tp "$tp" --pp "$pp"

step "starting $((tp * pp)) ranks with mpirun (log: $log)"
mpirun -np $((tp * pp)) --oversubscribe --bind-to none \
  "$polystrate" serve --model "$model" --tp "$tp" --pp "$pp" --listen "127.0.0.1:$port" >"$log" 2>&1 &
engine=$!
# SIGUSR1 is the signal that mpirun hands on at once: the ranks finish what they are doing and leave.
stop() {
  kill -USR1 "$engine" 2>/dev/null || true
  for _ in $(seq 100); do kill -0 "$engine" 2>/dev/null || break; sleep 0.1; done
  kill -KILL "$engine" 2>/dev/null || true
  wait "$engine" 2>/dev/null || true
}
trap stop EXIT

step "a prompt through gRPC"
printf '%s' "$prompt"
if ! "$polystrate" client --target "127.0.0.1:$port" --prompt "$prompt" --max_tokens 200 \
    --temperature 0.8 --top_p 0.95 --seed 1; then
  echo "the engine's last words:" >&2
  tail -n 20 "$log" >&2
  exit 1
fi
printf '\n'

step "stopping the engine"
stop
trap - EXIT
if pgrep -f "serve --model $model .*127.0.0.1:$port" >/dev/null; then
  echo "a rank is still there; that is a bug" >&2
  exit 1
fi
echo "all ranks have left"
