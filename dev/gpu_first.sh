#!/usr/bin/env bash
# What is most worth knowing of one GPU, in at most eight minutes.
#
#     dev/gpu_first.sh FOLDER             the results; $OUT if none is named
#     ON_CPU=1 dev/gpu_first.sh FOLDER    a rehearsal at small sizes
#
# The environment is taken as it is: PYTHON (default: python3) finds torch and detectron2 on its own
# or in unpacked wheels on PYTHONPATH; neither pip, git nor a network is needed. WHEELS (default:
# .whl) is a folder that has the wheel of projects/tree_crowns/requirements-data.txt, unless the data
# is there.
#
# Each part has a limit and writes what it has at once, to FOLDER/PART.txt and, a line of JSON for
# each figure, to FOLDER/figures.jsonl. One that fails does not stop the next. The runs of `trees`
# are in RUNS (default: output/gpu_first), and the finished ones without their weights in
# FOLDER/trees.tgz, too; the same call goes on where they stopped.
set -uo pipefail
out=${1:-${OUT:-}}
[ -n "$out" ] || { echo "gpu_first: name a folder for the results" >&2; exit 2; }
mkdir -p "$out"
out=$(cd "$out" && pwd)
# absolute, as some tests start processes in other folders
given=
IFS=: read -ra folders <<<"${PYTHONPATH:-}"
for folder in "${folders[@]}"; do given+=:$(cd "$folder" && pwd); done
mkdir -p "${RUNS:=$(dirname "$0")/../output/gpu_first}"
runs=$(cd "$RUNS" && pwd)
cd "$(dirname "$0")/.."
export PYTHONPATH=$PWD:$PWD/projects/benchmark$given PYTHONUNBUFFERED=1
python=${PYTHON:-python3}
slow=$([ -z "${ON_CPU:-}" ] && echo 1 || echo 5)  # limits of a rehearsal are so many times as long
seconds=$((slow * 480))

limited() { timeout -k 5 "$(($1 * slow))" "$python" -W ignore "${@:2}"; }

versions() { limited 30 dev/gpu_first.py versions "$out"; }

tests() {
    local few=()
    [ -z "${ON_CPU:-}" ] || few=(-k "random or waits or fpn")
    limited 90 -m pytest -v -p no:cacheprovider -m gpu "${few[@]}" \
        $(grep -rl --include='test_*.py' 'mark\.gpu' tests)
}

speed() { limited 150 dev/gpu_first.py speed "$out"; }
waits() { limited 30 dev/gpu_first.py waits "$out"; }

trees() {
    local data=datasets/tree_crowns/wheels
    mkdir -p $data && cp "${WHEELS:-.whl}"/deepforest-*.whl $data 2>/dev/null
    limited $(((seconds - SECONDS) / slow)) dev/gpu_first.py trees "$out" --runs "$runs"
    local ended=$?
    tar czf "$out/trees.tgz" --exclude='*.pth' -C "$runs" .
    return $ended
}

finished= failed=
for part in versions tests speed waits trees; do
    printf '\n===== %s, after %s s\n' $part $SECONDS
    if $part 2>&1 | tee "$out/$part.txt"; then finished+=" $part"; else failed+=" $part"; fi
done
printf '\nafter %s s, finished:%s; failed or stopped:%s\n' $SECONDS "$finished" "${failed:- none}" |
    tee "$out/summary.txt"
[ -z "$failed" ]
