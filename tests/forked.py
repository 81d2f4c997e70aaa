"""Commands in processes that are forked from one that has imported what takes seconds to import."""

import contextlib
import gc
import multiprocessing
import os
import runpy
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from models import ROOT
from torch.multiprocessing import start_processes

_IMPORTED = [
    *("detectron2.engine", "detectron2.evaluation", "forked"),
    *("ohem_d2.tools.training.trainer", "ohem_d2.tools.inspection", "ohem_d2.tools.report"),
    *("torch.utils.cpp_extension", "torch.utils.tensorboard"),
]


@dataclass(frozen=True)
class Outcome:
    status: int  # negative: killed by that signal, SIGKILL if it took too long
    stdout: str
    stderr: str


def process(target, args=(), kwargs=None):
    """A process of the server."""
    serve()
    return multiprocessing.get_context("forkserver").Process(
        target=target, args=args, kwargs=kwargs or {}
    )


def serve():
    """Start the server if it is not there."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    # Of the server, so of all its processes.
    before = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "PYTHONPATH")}
    folders = (ROOT, ROOT / "tests", before["PYTHONPATH"] or "")
    os.environ.update(OMP_NUM_THREADS="1", PYTHONPATH=os.pathsep.join(map(str, folders)))
    multiprocessing.forkserver.ensure_running()
    for name, value in before.items():
        os.environ.pop(name)
        os.environ.update({name: value} if value is not None else {})


class Command:
    """One that runs: a script, or "-m" and a module, and its arguments."""

    def __init__(self, command, folder, environment):
        self.folder = folder
        self.process = process(_main, (list(map(str, command)), folder, environment))
        self.process.start()

    def wait(self, seconds):
        """Its outcome; it is killed after so many seconds."""
        self.process.join(seconds)
        if self.process.is_alive():
            self.kill()
        self.process.join()
        status = self.process.exitcode
        if status == 255:  # multiprocessing's word for one that has got lost on the way
            status = int(Path(f"{self.folder}.status").read_text())
        texts = (Path(f"{self.folder}.{n}") for n in ("stdout", "stderr"))
        return Outcome(status, *(text.read_text(errors="replace") for text in texts))

    def kill(self):
        """With the workers of its data loader."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


def run(command, folder, seconds=30, **environment):
    """
    Args:
        command: see Command.
        folder: that it is run in; beside it are then FOLDER.stdout and FOLDER.stderr.
        seconds: it is killed after these.
        environment: variables that are read after PyTorch and Detectron2 are imported.
    """
    return Command(command, folder, environment).wait(seconds)


def printed(command, folder, seconds=120, **environment):
    """What it wrote to both streams, if nothing went wrong."""
    done = run(command, folder, seconds, **environment)
    assert done.status == 0, done.stderr[-3000:] + done.stdout[-1000:]
    return done.stdout + done.stderr


def kill_when(holds, command, folder, seconds=120):
    """Start a command, and kill it as soon as something holds, which it has to before its end."""
    started = Command(command, folder, {})
    deadline = time.monotonic() + seconds
    try:
        while not holds():
            runs, printed = started.process.is_alive(), Path(f"{folder}.stderr")
            assert runs and time.monotonic() < deadline, printed.read_text()[-3000:]
            time.sleep(0.02)
    finally:
        started.process.kill()
        started.process.join()


def spawn(function, *args):
    """``function(rank, *args)`` in two processes."""
    serve()
    start_processes(function, args, nprocs=2, start_method="forkserver")


def _main(command, folder, environment):
    gc.freeze()  # Collections need not go over all that the server has imported.
    os.setpgrp()
    os.environ.update(environment)
    os.chdir(folder)
    # As in a process that was not started so: workers of a data loader would import all again.
    multiprocessing.set_start_method("fork", force=True)
    for name, stream in (("stdout", 1), ("stderr", 2)):
        os.dup2(os.open(f"{folder}.{name}", os.O_CREAT | os.O_WRONLY | os.O_TRUNC), stream)
    status = 1
    try:
        if command[0] == "-m":
            sys.argv = command[1:]
            sys.path.insert(0, str(folder))
            runpy.run_module(command[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = command
            sys.path.insert(0, str(Path(command[0]).parent))
            sys.path[1:1] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
            runpy.run_path(command[0], run_name="__main__")
        status = 0
    except SystemExit as e:
        status = e.code if isinstance(e.code, int) else int(e.code is not None)
        raise
    finally:
        Path(f"{folder}.status").write_text(str(status))
