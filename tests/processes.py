"""Commands in processes of their own."""

import os
import subprocess

from models import ROOT


def environment(**more):
    """One thread: sums are then taken in the same order in every process."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **more}


def run(command, cwd=ROOT, **more):
    """What it printed. ``more`` are variables of its environment."""
    command = [str(part) for part in command]
    done = subprocess.run(command, cwd=cwd, env=environment(**more), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-1000:]
    return done.stdout + done.stderr
