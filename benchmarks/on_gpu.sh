#!/usr/bin/env bash
# One step on a GPU machine without a network; see pack_gpu.py, and docs/training.md for the order.
#
#   1  prediction speed (needs pack 1)
#   2  data: put together what has arrived (packs 2, 3, ...: once each, as they come)
#   3  fold 0 of the recipe trained to its end and scored, the test images predicted (all packs)
#   4  training speeds
#   5  memory
#
# PACKS  folder of the numbered folders that were copied (gpu-pack); STATE  what outlives a step
# (/tmp/gpu); OUT  results: at most 8 files of 16 MiB (gpu-out). RECIPE (carvana), ACCELERATOR
# (cuda) and EXTRA (options of the benchmarks) are for rehearsals.
set -euo pipefail
cd "$(dirname "$0")/.."
step=${1:?usage: on_gpu.sh 1|2|3|4|5}
packs=${PACKS:-gpu-pack} state=${STATE:-/tmp/gpu} out=${OUT:-gpu-out}
recipe=${RECIPE:-carvana} accelerator=${ACCELERATOR:-cuda}
mkdir -p "$state" "$out"
python3 benchmarks/pack_gpu.py join --packs "$packs" --state "$state"
if compgen -G "$state/wheels/*.whl" > /dev/null; then
    python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade \
        --target "$state/site" "$state"/wheels/*.whl
fi
export PYTHONPATH="$state/site:$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
export PIPELINE_DATA="$state/data"
competition=$state/data/competitions/carvana-image-masking-challenge

case $step in
1) # shellcheck disable=SC2086
    python3 benchmarks/predict_gpu.py --raw "$competition" ${EXTRA:-} 2>&1 | tee "$out/prediction.txt" ;;
2) ;;
3)
    python3 - "$recipe" "$accelerator" <<'PY'
import sys
from pathlib import Path

import yaml

path = Path("recipes", f"{sys.argv[1]}.yaml")
recipe = yaml.safe_load(path.read_text())
recipe["runtime"] |= {"accelerator": sys.argv[2], "tensorboard": False}
path.with_name("on-gpu.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
PY
    at=()
    for place in archives raw samples runs oof kept evaluation submission work logs; do
        at+=(--at "$place=$state/run/$place")
    done
    for verb in download split "train --fold 0" "validate --fold 0" "tune --fold 0" "predict --fold 0" \
        "encode --fold 0"; do
        read -r name options <<< "$verb"
        # shellcheck disable=SC2086
        python3 -m pipeline "$name" on-gpu $options "${at[@]}" 2>&1 | tr '\r' '\n' | tee -a "$out/log.txt"
    done
    rm -f recipes/on-gpu.yaml
    cp "$state/run/runs/fold0/history.csv" "$state/run/submission/submit.csv.gz" "$out/"
    cp "$state/run/evaluation/metrics.json" "$out/metrics.json"
    python3 - "$state/run/runs/fold0/model.pt" "$state/model-float16.pt" <<'PY'
import sys

import torch

content = torch.load(sys.argv[1], map_location="cpu", weights_only=True)
content["weights"] = {
    name: value.half() if value.is_floating_point() else value
    for name, value in content["weights"].items()
}
torch.save(content, sys.argv[2])
PY
    python3 benchmarks/pack_gpu.py cut "$state/model-float16.pt" --out "$out" ;;
4) # shellcheck disable=SC2086
    python3 benchmarks/train_gpu.py --data "$competition" --out "$state/speed" --skip score \
        --accelerator "$accelerator" ${EXTRA:-} 2>&1 | tee "$out/training.txt" ;;
5) # shellcheck disable=SC2086
    python3 benchmarks/memory.py --device "$accelerator" ${EXTRA:-} 2>&1 | tee "$out/memory.txt" ;;
*) echo "error: found step '$step', expected 1 to 5" >&2; exit 2 ;;
esac
