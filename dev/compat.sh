#!/usr/bin/env bash
# The test suite under the versions that we claim: one environment after another, made here and
# deleted afterwards, and a table in Markdown of what passed.
#
#     dev/compat.sh [NAME...]      rows of the table below; all of them unless named
#     COMPAT_DIR=FOLDER            where to work (6 GB at a time); output/compat unless set
#     KEEP=1                       leave the environments there
#     PYTEST_ADDOPTS="tests/heads" only these tests, or other options of pytest
#
# The interpreters are found as python3.10 to python3.13 (pyenv: `pyenv shell 3.10 3.11 3.12 3.13`).
# What cannot be had here, an interpreter or a package, is reported as "not run". A row's log lies
# beside the table. The exit status is that of the rows that ran.
set -uo pipefail
cd "$(dirname "$0")/.."

# The wheel's compiled part is for Python 3.10 and PyTorch 2.3 with CUDA 12, and loads with no other.
#
# name            Python  PyTorch                             Detectron2
rows="
v0.6-oldest       3.10    torch==2.0.1,torchvision==0.15.2    v0.6
v0.6              3.11    pinned                              v0.6
2024-oldest       3.10    torch==2.0.1,torchvision==0.15.2    wheel
2024-compiled     3.10    torch==2.3.1,torchvision==0.18.1    wheel
2024-3.10         3.10    pinned                              wheel
2024              3.11    pinned                              wheel
2024-3.12         3.12    pinned                              wheel
newest            3.13    newest                              wheel
main              3.12    pinned                              git@main
"
# v0.6's Python sources as they were released. There are none of its compiled part with them.
v06="pb1-detectron2==0.6 \
--hash=sha256:5d2e9e51e523ec72f6a31cca04b0a515492e9514b773a3d134cedc0677170b29"

folder=${COMPAT_DIR:-output/compat}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
table=$folder/table.md
ran=0 failed=0

# Print why a row is not run, and leave it.
skip() {
    echo "not run: $*"
    exit 3
}

# In a subshell of its own: make the environment $env, or skip.
build() {
    local version=$1 torch=$2 detectron2=$3 python=$env/bin/python args=(-r "$env/requirements.txt")
    if [ "$detectron2" = git@main ]; then
        GIT_TERMINAL_PROMPT=0 git ls-remote \
            https://github.com/facebookresearch/detectron2.git HEAD >&2 ||
            skip "its repository cannot be reached from here"
    fi
    command -v "python$version" >&2 && "python$version" -c "" >&2 || skip "no python$version here"
    rm -rf "$env"
    "python$version" -m venv "$env" >&2 || skip "python$version makes no environment"
    case $torch in
    pinned) cp requirements.txt "$env" ;;
    # Of everything, but for what Detectron2 does not work with, and the style.
    newest)
        grep -oE "^((setuptools|ruff)[^#]*|[a-z][a-z0-9-]*)" requirements.txt | sort -u \
            >"$env/requirements.txt"
        ;;
    *)
        grep -vE "^torch(vision)?\b" requirements.txt >"$env/requirements.txt"
        args+=(${torch//,/ })
        ;;
    esac
    # It uses names that later ones of these dropped.
    if [ "$detectron2" = v0.6 ]; then args+=("numpy<1.24" "pillow<10"); fi
    "$python" -m pip install --quiet "${args[@]}" >&2 || skip "pip has no such packages for it"
    if [ "$detectron2" = v0.6 ]; then
        install_v06 >&2 || skip "its sources cannot be had"
    else
        DETECTRON2=$detectron2 PYTHONPATH=dev "$python" -c \
            "import sys, setup_env; setup_env.install_detectron2(sys.executable)" >&2 ||
            skip "it cannot be installed"
    fi
}

install_v06() {
    local site
    site=$("$python" -c "import sysconfig; print(sysconfig.get_path('purelib'))") &&
        "$python" -m pip download --quiet --no-deps --no-binary :all: --no-build-isolation \
            --require-hashes -d "$env/v06" -r <(echo "$v06") &&
        tar -xzf "$env"/v06/*.tar.gz -C "$env/v06" &&
        cp -r "$env"/v06/*/detectron2 "$site" &&
        cp -r "$env"/v06/*/projects/PointRend/point_rend "$site/detectron2/projects" &&
        # v0.6 imports its compiled part whether it uses it or not. A stand-in that has what its
        # report on the environment asks for, and no operator; and the evaluator of pycocotools
        # in the place of the compiled one, which gives the same numbers.
        echo "get_compiler_version = get_cuda_version = lambda: 'none'" >"$site/detectron2/_C.py" &&
        echo "from pycocotools.cocoeval import COCOeval as COCOeval_opt  # noqa: F401" \
            >"$site/detectron2/evaluation/fast_eval_api.py"
}

# Options of pytest. What lies under projects/ is made for the PyTorch of requirements.txt, not for
# the plugin's oldest.
options() {
    case $1 in
    torch==*) echo --ignore=tests/paper --ignore=tests/tree_crowns --ignore=tests/benchmark ;;
    esac
}

echo "| Detectron2 | Python | PyTorch | NumPy | tests | date |
|---|---|---|---|---|---|" >"$table"
while read -r -u 3 name version torch detectron2; do
    if [ -z "$name" ] || { [ $# -gt 0 ] && [[ " $* " != *" $name "* ]]; }; then continue; fi
    env=$folder/$name log=$folder/$name.log
    echo "-- $name: log in $log" >&2
    case $detectron2 in v0.6) label=v0.6 ;; wheel) label="main, April 2024" ;; *) label=main ;; esac
    numpy=""
    if result=$(build "$version" "$torch" "$detectron2" 2>"$log"); then
        read -r version torch_version numpy < <("$env/bin/python" -W ignore -c \
            "import platform as p, numpy, torch
print(p.python_version(), torch.__version__.split('+')[0], numpy.__version__)")
        ran=$((ran + 1))
        PYTEST_ADDOPTS="$(options "$torch") ${PYTEST_ADDOPTS:-}" make PYTHON="$env/bin/python" test \
            </dev/null >>"$log" 2>&1
        passed=$?
        result=$(grep -E "^[0-9].* in [0-9.]+s" "$log" | tail -n 1 | sed -E "s/ in [0-9.]+s.*//")
        case $torch in torch==*) result="$result (without \`projects/\`)" ;; esac
        result+=${PYTEST_ADDOPTS:+ (\`$PYTEST_ADDOPTS\`)}
        if [ $passed != 0 ]; then
            failed=$((failed + 1)) result="**failed**: ${result:-see the log}"
        fi
    else
        case $torch in
        pinned) torch_version=$(sed -n "s/^torch==//p" requirements.txt) ;;
        torch==*) torch_version=${torch#torch==} torch_version=${torch_version%%,*} ;;
        *) torch_version=newest ;;
        esac
    fi
    echo "| $label | $version | $torch_version | $numpy | $result | $(date -u +%F) |" >>"$table"
    tail -n 1 "$table" >&2
    [ "${KEEP:-}" ] || rm -rf "$env"
done 3<<<"$rows"
cat "$table"
if [ $ran = 0 ]; then
    echo "compat: nothing ran" >&2
    exit 1
fi
[ $failed = 0 ]
