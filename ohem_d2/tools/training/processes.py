"""Start the processes of a run so that they end together, and save a checkpoint on SIGTERM."""

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing import connection
from typing import Any

from detectron2 import engine
from detectron2.utils import comm
from torch.multiprocessing import ProcessExitedException

logger = logging.getLogger(__name__)

_PATIENCE = 5  # seconds


class Terminated(SystemExit):
    """A training ended after SIGTERM, with a checkpoint. The script exits with status 143."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)  # as shells report a process that a signal has ended


class EndOnSigterm(engine.HookBase):
    """
    If SIGTERM comes to any process of the run, saves a checkpoint after that iteration and ends all
    processes by :class:`Terminated`. A second one ends the process at once, if it comes more than a
    second later: some schedulers send each signal twice.
    """

    _came, _listening = 0.0, False  # time of the signal, 0.0 without one

    def before_train(self) -> None:
        self._listening = on_sigterm(self._note)

    def _note(self, *_: Any) -> None:
        if self._came and time.monotonic() > self._came + 1:
            self._die()
        self._came = self._came or time.monotonic()

    def after_step(self) -> None:
        trainer = self.trainer
        if trainer.iter + 1 == trainer.max_iter or not any(comm.all_gather(self._came)):
            return
        self._came, name = 0.0, f"model_{trainer.iter:07d}"
        trainer.checkpointer.save(name, iteration=trainer.iter)
        ended = f"SIGTERM: ended after iteration {trainer.iter}, whose checkpoint is {name}.pth"
        logger.warning(f"{ended}; --resume goes on there")
        raise Terminated

    def after_train(self) -> None:
        if self._listening:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if self._came:  # in the last iteration, after which no checkpoint is needed
            self._die()

    @staticmethod
    def _die() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTERM)


def on_sigterm(handler: Callable[..., Any]) -> bool:
    """Set the handler, unless one is set or this is not the main thread. Whether it was set."""
    main_thread = threading.current_thread() is threading.main_thread()
    free = main_thread and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if free:
        signal.signal(signal.SIGTERM, handler)
    return free


def launch(
    main: Callable[..., Any],
    num_gpus_per_machine: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str | None = None,
    args: tuple = (),
) -> None:
    """
    Detectron2's ``launch``, with the same arguments. Processes that it starts get the SIGTERM that
    comes here, and end when this process ends, even by a kill or an interrupt. SystemExit has the
    status of the first process that failed. A message says if a signal has ended it.
    """
    machines = {"num_machines": num_machines, "machine_rank": machine_rank, "dist_url": dist_url}
    if num_machines * num_gpus_per_machine <= 1:
        return engine.launch(main, num_gpus_per_machine, args=args, **machines)
    children = multiprocessing.active_children
    on_sigterm(lambda *_: [child.terminate() for child in children()])
    threading.Thread(target=_end_others, args=(num_gpus_per_machine,), daemon=True).start()
    try:
        arguments = os.getpid(), main, args
        engine.launch(_with_parent, num_gpus_per_machine, args=arguments, **machines)
    except ProcessExitedException as e:
        if e.exit_code < 0:  # by a signal
            print(f"The run has ended: {e}", file=sys.stderr)
        raise SystemExit(e.exit_code if e.exit_code > 0 else 128 - e.exit_code) from None
    finally:
        for child in children():
            child.kill()


def _end_others(number: int) -> None:
    """
    End the other children when one has failed. PyTorch only sends them SIGTERM, which a training
    takes for a scheduler's, and some of them wait for the one that failed.
    """
    while len(children := multiprocessing.active_children()) < number:
        time.sleep(0.1)
    while children:
        connection.wait([child.sentinel for child in children])
        time.sleep(_PATIENCE)  # By then most have ended by themselves, and PyTorch has the status.
        if any(child.exitcode for child in children):
            for child in children:
                child.kill()
        children = [child for child in children if child.is_alive()]


def _with_parent(parent: int, main: Callable[..., Any], args: tuple) -> None:
    def end_after_parent() -> None:  # even if the main thread waits for another process
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=end_after_parent, daemon=True).start()
    main(*args)
