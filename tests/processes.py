"""Commands in processes of their own."""

import os
import subprocess
import time
from pathlib import Path

import torch
from models import ROOT
from torch import distributed as dist


def python_path(*first):
    """These folders before those that are set, where another Detectron2 may lie."""
    return os.pathsep.join(filter(None, (*map(str, first), os.environ.get("PYTHONPATH", ""))))


def environment(*folders, **more):
    """One thread: sums are then taken in the same order in every process."""
    path = python_path(*folders, ROOT)
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **more}


def run(command, cwd=ROOT, **more):
    """What it printed. ``more`` are variables of its environment."""
    command = [str(part) for part in command]
    done = subprocess.run(command, cwd=cwd, env=environment(**more), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-1000:]
    return done.stdout + done.stderr


def meet(rank, folder):
    """Two processes become a group."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)


def leave(rank, folder):
    """
    PyTorch at times aborts a process while it takes gloo's threads down; so both end without that,
    once neither needs the other.
    """
    Path(folder, f"{rank}.done").touch()
    while len(list(Path(folder).glob("*.done"))) < 2:
        time.sleep(0.01)
    os._exit(0)
