"""SIGTERM, which schedulers send before they take a machine away: a checkpoint is saved first."""

import logging
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm

logger = logging.getLogger(__name__)


class Terminated(SystemExit):
    """A training ended after SIGTERM, and its checkpoint is saved. The script ends with 143."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)  # as shells have it of a process that it has ended


class EndOnSigterm(HookBase):
    """
    After an iteration in which SIGTERM came to any process of the run, saves a checkpoint and ends
    all of them by :class:`Terminated`. Another one, more than a second later, as some schedulers
    send each twice, ends the process at once.
    """

    _came, _listening = 0.0, False  # when it came, if it did

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
        if self._came:  # in the last iteration: what follows is no matter of checkpoints
            self._die()

    @staticmethod
    def _die() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTERM)


def on_sigterm(handler: Callable[..., Any]) -> bool:
    """Call it from now on, unless there is another or this is not the main thread; whether so."""
    main_thread = threading.current_thread() is threading.main_thread()
    free = main_thread and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if free:
        signal.signal(signal.SIGTERM, handler)
    return free
