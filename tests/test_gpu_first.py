"""dev/gpu_first.sh, rehearsed on the CPU, and with a Python and a clock that only tell of calls."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from models import ROOT

pytestmark = pytest.mark.long

SCRIPT = ROOT / "dev/gpu_first.sh"
PARTS = ["versions", "tests", "speed", "waits", "trees"]
VARIANTS = ["random 128", "random 512", "OHEM", "screening", "loss layer"]


def gpu_first(*args, **env):
    how = {"capture_output": True, "text": True, "check": False}
    return subprocess.run([SCRIPT, *args], env={**os.environ, **env}, **how)


@pytest.mark.skipif(torch.cuda.is_available(), reason="rehearses without one")
def test_rehearsal(tree_crowns, tmp_path):
    env = {"ON_CPU": "1", "PYTHON": sys.executable, "RUNS": str(tmp_path / "runs")}
    done = gpu_first(tmp_path / "out", **env)
    finished = f"finished: {' '.join(PARTS)}; failed or stopped: none"
    assert done.stdout.splitlines()[-1].endswith(finished), done.stdout[-3000:]
    assert done.returncode == 0
    # On the machine that has the GPU no more than eight files come back.
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {"figures.jsonl", "summary.txt", "trees.tgz", *(f"{p}.txt" for p in PARTS)}
    lines = (tmp_path / "out/figures.jsonl").read_text().splitlines()
    by_part = {part: [] for part in PARTS if part != "tests"}
    for figure in map(json.loads, lines):
        by_part[figure["part"]].append(figure)
    assert torch.__version__ in str(by_part["versions"])
    speed = by_part["speed"]
    for what in ("RoI part", "whole step"):
        for precision in ("float32", "bfloat16"):
            rows = [f for f in speed if (f["what"], f["precision"]) == (what, precision)]
            assert [row["variant"] for row in rows] == VARIANTS
            assert all(row["ms"] > 0 and row["GiB"] > 0 and row["N"] == 2 for row in rows)
    waits = {f["variant"]: f for f in by_part["waits"]}
    assert list(waits) == VARIANTS
    mining = {name: f["waits of mining"] > 0 for name, f in waits.items()}
    assert mining == {name: not name.startswith("random") for name in VARIANTS}
    results = {f["sampler"] for f in by_part["trees"] if "classes" in f}
    assert results == {"random-128", "ohem-128"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu():
    how = {"capture_output": True, "text": True, "check": False}
    env = {k: v for k, v in os.environ.items() if k != "ON_CPU"}
    env["PYTHONPATH"] = f"{ROOT}:{ROOT / 'projects/benchmark'}"
    command = [sys.executable, "-W", "ignore", ROOT / "dev/gpu_first.py", "speed", "/"]
    done = subprocess.run(command, env=env, **how)
    assert done.returncode == 1 and "torch sees no GPU here" in done.stderr
    assert gpu_first(OUT="").returncode == 2


def test_parts_that_fail_do_not_stop_the_next(tmp_path):
    python, timeout = tmp_path / "python", tmp_path / "timeout"
    python.write_text(
        '#!/bin/sh\necho called "$@"\ncase "$*" in *" speed "*|*"-m pytest"*) exit 3;; esac\n'
    )
    timeout.write_text('#!/bin/sh\necho limit $3\nshift 3\nexec "$@"\n')
    for file in (python, timeout):
        file.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    out, runs = tmp_path / "out", tmp_path / "runs"
    env = {k: str(v) for k, v in {"PYTHON": python, "OUT": out, "RUNS": runs, "PATH": path}.items()}
    done = gpu_first(PYTHONPATH=os.path.relpath(tmp_path), **env)
    assert done.returncode == 1
    last = "finished: versions waits trees; failed or stopped: tests speed"
    assert done.stdout.splitlines()[-1].endswith(last)
    assert (out / "summary.txt").read_text().strip().endswith(last)
    limits = [int(limit) for limit in re.findall("^limit (.*)$", done.stdout, re.MULTILINE)]
    assert limits[:4] == [30, 90, 150, 30] and 480 - 30 < limits[4] <= 480
    assert sum(limits[:4]) < 480
    (called,) = re.findall("^called (.*)$", (out / "tests.txt").read_text(), re.MULTILINE)
    files = set(re.findall(r"tests/\S+", called))
    assert {"tests/test_gpu.py", "tests/mining/test_selection.py"} <= files
    assert "tests/test_verify.py" not in files
