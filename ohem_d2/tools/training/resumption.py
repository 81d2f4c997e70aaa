"""A run that was interrupted goes on as if it had not been."""

import logging
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils import comm

from .batches import ResumableLoader
from .seeds import ITERATION, run_seed, seed_all, seed_at

logger = logging.getLogger(__name__)


class ExactResumption(HookBase):
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
        seed_all(seed_at(self._seed, ITERATION, comm.get_rank(), self.trainer.iter))
