#!/usr/bin/env bash
# All that needs a GPU, in parts of less than nine minutes each, every one with a report of its own.
#
#     dev/gpu_check.sh                  all parts, one after the other
#     dev/gpu_check.sh tests rois       these
#     PYTHON=python3 dev/gpu_check.sh   an environment that has torch and detectron2, taken as it is:
#                                       nothing is installed, and neither pip, git nor a network needed
#
# REPORTS=FOLDER   of the reports (default: output/gpu_check)
# EVIDENCE="--data boards=FOLDER trees --seeds 1 2 3"   what the part evidence runs
# LIMIT=SECONDS    of a part (default: 440, to which a minute may come)
# ON_CPU=1         a rehearsal without a GPU
#
# A part that fails does not stop the others; the last lines say how each ended. What goes on after
# its time is stopped; the benchmark and the evidence keep what they have by then.
set -uo pipefail
cd "$(dirname "$0")/.."
all="environment tests rois steps timeline training evidence"
parts=${*:-$all}
for part in $parts; do
    [[ " $all " == *" $part "* ]] || { echo "gpu_check: no part $part; there are: $all" >&2; exit 2; }
done
reports=${REPORTS:-output/gpu_check}
python=${PYTHON:-$(DETECTRON2=${DETECTRON2:-git} python3 dev/setup_env.py)} || exit 1
gpus=$("$python" -c 'import torch; print(torch.cuda.device_count())' | tail -n 1)
if [ "${gpus:-0}" -eq 0 ] && [ -z "${ON_CPU:-}" ]; then
    echo "gpu_check: torch sees no GPU here; nothing was checked" >&2
    exit 1
fi
device=$([ "${gpus:-0}" -gt 0 ] && echo cuda || echo cpu)
# absolute, as some tests start processes in other folders
IFS=: read -ra given <<<"${PYTHONPATH:-}"
PYTHONPATH=$PWD
for folder in "${given[@]}"; do PYTHONPATH+=:$(realpath "$folder"); done
export PYTHONPATH
mkdir -p "$reports" output
data=datasets/tree_crowns
summary=

# What is left of the part's time, or a minute for what collects the results of one that was stopped
step() {
    local left=$((ends - SECONDS))
    printf '\n$ %s\n' "$*"
    timeout -k 10 $((left > 60 ? left : 60)) "$@"
}

run() { step "$python" -W ignore "$@"; }

train() {
    run train_net.py --config-file configs/quick_schedules/faster_rcnn_R_50_FPN_cpu.yaml --overwrite \
        --train-data "coco:$data/train.json:$data/tiles" \
        --test-data "coco:$data/test.json:$data/tiles" "$@" MODEL.DEVICE $device
}

environment() {
    date -u
    run dev/check_install.py && run -m ohem_d2 collect-env && run projects/tree_crowns/prepare_data.py
}

# Side by side where pytest-xdist is there
tests() {
    run projects/tree_crowns/prepare_data.py
    run -m pytest -q $("$python" -c 'import xdist' 2>/dev/null && echo "-n $(($(nproc) / 2))")
}

rois() { run projects/benchmark/bench.py --gpu --only rois --rounds 5 --output "$reports/rois"; }
steps() { run projects/benchmark/bench.py --gpu --only steps --rounds 5 --output "$reports/steps"; }

timeline() {
    for precision in float32 float16; do
        run projects/benchmark/timeline.py --precision $precision --output "output/timeline/$precision" || return
    done
}

# In mixed precision, and on two GPUs where there are two
training() {
    run projects/tree_crowns/prepare_data.py
    train SOLVER.AMP.ENABLED True OUTPUT_DIR output/gpu_check_amp || return
    if [ "${gpus:-0}" -ge 2 ]; then
        train --num-gpus 2 OUTPUT_DIR output/gpu_check_two
    else
        echo "two GPUs: left out, there is no second one"
    fi
}

# Six processes share a GPU; of those that are stopped the next call goes on from the checkpoint.
evidence() {
    local devices="" how="--output output/gpu_check_evidence --record $reports/evidence.json"
    for _ in 1 2 3 4 5 6; do devices+=" $device"; done
    run projects/evidence/evidence.py ${EVIDENCE:---data trees --tables main} $how --devices $devices --threads 2
    local ended=$?
    run projects/evidence/evidence.py ${EVIDENCE:---data trees --tables main} $how --show
    return $ended
}

for part in $parts; do
    ends=$((SECONDS + ${LIMIT:-440}))
    $part > >(tee "$reports/$part.txt") 2>&1
    ended=$?
    wait $! 2>/dev/null  # for tee
    summary+="$part: $([ $ended -eq 0 ] && echo ok || echo "FAILED ($ended)")"$'\n'
done
printf '\n===== in all\n%s' "$summary"
! grep -q "FAILED" <<<"$summary"
