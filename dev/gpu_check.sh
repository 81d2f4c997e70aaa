#!/usr/bin/env bash
# All that needs a GPU, in one go and into one file: the tests, training in mixed precision, training
# on two GPUs if there are two, the benchmark.
#
#     dev/gpu_check.sh [REPORT]             report: output/gpu_check.txt unless named
#     PYTHON=/path/to/python dev/gpu_check.sh    an environment that has torch and detectron2
#
# A step that fails does not stop the others; the last lines of the report say how each ended.
set -uo pipefail
cd "$(dirname "$0")/.."
report=${1:-output/gpu_check.txt}
mkdir -p "$(dirname "$report")" output
python=$(DETECTRON2=${DETECTRON2:-git} python3 dev/setup_env.py "${PYTHON:-}") || exit 1
gpus=$("$python" -c 'import torch; print(torch.cuda.device_count())' | tail -n 1)
if [ "${gpus:-0}" -eq 0 ]; then
    echo "gpu_check: torch sees no GPU here; nothing was checked" >&2
    exit 1
fi
export PYTHONPATH=.
data=datasets/tree_crowns
summary=

step() {
    local name=$1 status=ok
    shift
    printf '\n===== %s\n$ %s\n' "$name" "$*"
    "$@" || status="FAILED ($?)"
    summary+="$name: $status"$'\n'
}

train() {
    "$python" train_net.py --config-file configs/quick_schedules/faster_rcnn_R_50_FPN_cpu.yaml \
        --train-data "coco:$data/train.json:$data/tiles" \
        --test-data "coco:$data/test.json:$data/tiles" "$@" MODEL.DEVICE cuda
}

# for what the projects share
export PYTHONPATH=.${PYTHONPATH:+:$PYTHONPATH}
{
    date -u
    step "environment" "$python" -m ohem_d2 collect-env
    step "tests" "$python" -m pytest -q
    step "data" "$python" projects/tree_crowns/prepare_data.py
    step "mixed precision" train SOLVER.AMP.ENABLED True OUTPUT_DIR output/gpu_check_amp
    if [ "$gpus" -ge 2 ]; then
        step "two GPUs" train --num-gpus 2 OUTPUT_DIR output/gpu_check_two
    else
        summary+="two GPUs: left out, there is one"$'\n'
    fi
    step "benchmark" "$python" -W ignore projects/benchmark/bench.py --output output/gpu_check_bench
    step "means" "$python" -W ignore projects/benchmark/means.py
    printf '\n===== in all\n%s' "$summary"
} 2>&1 | tee "$report"
# Without its last part the report is that of a check that was cut short.
grep -q "^===== in all" "$report" && ! grep -q ": FAILED" <(tail -n 8 "$report")
