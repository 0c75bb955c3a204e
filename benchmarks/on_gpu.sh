#!/usr/bin/env bash
# One step on a GPU machine without a network; see pack_gpu.py, and docs/training.md for the order.
#
#   1  prediction speed (needs pack 1)
#   2  data: put together what has arrived (packs 2, 3, ...: once each, as they come)
#   3  fold 0 of the recipe trained to its end and scored, the test images predicted (all packs)
#   4  training speeds
#   5  memory, and a training by two processes
#
# PACKS  folder of the numbered folders that were copied (gpu-pack); STATE  what outlives a step
# (/tmp/gpu); OUT  results: at most 8 files of 16 MiB (gpu-out/STEP). Steps 3 and 4 stop after 9 minutes
# and go on when they are run again. Options after the step go to on_gpu.py, for rehearsals.
set -euo pipefail
cd "$(dirname "$0")/.."
step=${1:?usage: on_gpu.sh 1|2|3|4|5}
packs=${PACKS:-gpu-pack} state=${STATE:-/tmp/gpu} out=${OUT:-gpu-out/$step}
mkdir -p "$state" "$out"
python3 benchmarks/pack_gpu.py join --packs "$packs" --state "$state"
if compgen -G "$state/wheels/*.whl" > /dev/null; then
    python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade \
        --target "$state/site" "$state"/wheels/*.whl
fi
export PYTHONPATH="$state/site${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
python3 benchmarks/on_gpu.py "$@" --state "$state" --out "$out" 2>&1 | stdbuf -oL tr '\r' '\n' |
    tee "$out/step$step.txt"
