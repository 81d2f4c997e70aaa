"""What OHEMTrainer does at each iteration, so that a run can be interrupted."""

import logging
import signal
import time
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils import comm

from .batches import ResumableLoader
from .chance import ITERATION, draw_from, run_seed, seed_at
from .processes import SIGTERM_STATUS, on_sigterm

logger = logging.getLogger(__name__)


class AsIfNeverInterrupted(HookBase):
    """
    A resumed run draws the random numbers, and sees the images, that it would have without the
    interruption: each iteration draws from a seed of its own, and the data goes on where it was.
    """

    def __init__(self, cfg: CfgNode):
        self._seed, self._loaded = run_seed(cfg), False

    def state_dict(self) -> dict[str, Any]:
        loader = self.trainer.data_loader
        data = loader.state_dict() if isinstance(loader, ResumableLoader) else None
        return {"seed": self._seed, "data": data}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._seed, loader = state["seed"], self.trainer.data_loader
        if state["data"] and isinstance(loader, ResumableLoader):
            loader.load_state_dict(state["data"])
            self._loaded = True

    def before_train(self) -> None:
        if self.trainer.start_iter > 0 and not self._loaded:
            logger.warning(
                "The checkpoint does not say which images were seen, and the data begins anew: it "
                "is of an earlier version, or of a loader that is no ResumableLoader"
            )

    def before_step(self) -> None:
        draw_from(seed_at(self._seed, ITERATION, comm.get_rank(), self.trainer.iter))


class EndOnSigterm(HookBase):
    """
    At the end of an iteration in which SIGTERM came to any process of the run, saves a checkpoint
    and ends all of them. A second one, more than a second later, ends the process at once: some
    schedulers send the first to parent and children, so that it comes twice to these.
    """

    def __init__(self) -> None:
        self._came, self._listening = 0.0, False  # when it came, if it did

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
        name = f"model_{trainer.iter:07d}"
        trainer.checkpointer.save(name, iteration=trainer.iter)
        self._came = 0.0
        logger.warning(
            f"SIGTERM: ended after iteration {trainer.iter}, whose checkpoint is {name}.pth; "
            "--resume goes on there"
        )
        raise SystemExit(SIGTERM_STATUS)

    def after_train(self) -> None:
        if self._listening:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if self._came:  # in the last iteration: what follows is no matter of checkpoints
            self._die()

    @staticmethod
    def _die() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTERM)
