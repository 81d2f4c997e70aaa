"""
Classic bootstrapping, which OHEM replaces (paper Sec. 1 and 2): train on a fixed working
set of RoIs, freeze the model, run it over the whole data set, add its false positives to the
set, and go on (Sung and Poggio 1994; Felzenszwalb et al. 2010, Sec. 4).

It needs a Fast R-CNN with precomputed proposals and Detectron2's own heads. SOLVER.MAX_ITER is
split evenly over BOOTSTRAP.ROUNDS rounds, with one learning rate schedule and one optimizer
throughout; between them are sweeps. The heads sample from the working set and the objects.
"""

import logging
import time
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.engine.hooks import PeriodicWriter
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, CascadeROIHeads, StandardROIHeads

from ohem_d2 import OHEMMixin
from ohem_d2.tools.errors import InputError
from ohem_d2.tools.training.trainer import OHEMTrainer

from .bg_lo import BgLoMixin
from .working_set import WorkingSet, WorkingSetLoader, round_of, sweep

logger = logging.getLogger("detectron2.ohem_paper")

# Heads that build on StandardROIHeads, but sample in another way
OTHERS = (BgLoMixin, CascadeROIHeads, OHEMMixin)


def check_config(cfg: CfgNode) -> None:
    """Raises InputError if the configuration is of a detector that cannot be bootstrapped here."""
    generator = cfg.MODEL.PROPOSAL_GENERATOR.NAME
    if not cfg.MODEL.LOAD_PROPOSALS or generator != "PrecomputedProposals":
        keys = f"MODEL.LOAD_PROPOSALS = {cfg.MODEL.LOAD_PROPOSALS!r}"
        keys += f" and MODEL.PROPOSAL_GENERATOR.NAME = {generator!r}"
        why = "as a working set refers to proposals that stay the same"
        raise InputError(f"{keys}; allowed: True and 'PrecomputedProposals', {why}")
    name = cfg.MODEL.ROI_HEADS.NAME
    heads = ROI_HEADS_REGISTRY.get(name)
    if not issubclass(heads, StandardROIHeads) or issubclass(heads, OTHERS):
        allowed = "StandardROIHeads, or heads with one stage that build on them and do not mine"
        raise InputError(f"MODEL.ROI_HEADS.NAME = {name!r}; allowed: {allowed}")


class SweepBetweenRounds(HookBase):
    """Ends a round: sweep, next working set, checkpoint ``model_round_N.pth``."""

    def before_train(self) -> None:
        # If the run was killed in a sweep, that is still to be done.
        self._go_on_to(self.trainer.start_iter)

    def after_step(self) -> None:
        trainer = self.trainer
        if trainer.iter + 1 == trainer.max_iter:
            trainer.end_round()
        elif self._go_on_to(trainer.iter + 1):
            # Not the name of a periodic checkpoint, which may just have been written: a file that
            # a resumed run would read must not be written again.
            trainer.checkpointer.save(f"model_round_{trainer.working_set.round}")

    def _go_on_to(self, iteration: int) -> bool:
        """If a round begins with this iteration, find its set. Whether it does."""
        trainer, rounds = self.trainer, self.trainer.cfg.BOOTSTRAP.ROUNDS
        here = round_of(iteration, trainer.max_iter, rounds)
        begins = iteration < trainer.max_iter and here > trainer.working_set.round
        if begins:
            trainer.end_round(next_round=here)
        return begins


class BootstrapTrainer(OHEMTrainer):
    """
    Trains in rounds, with a sweep between them. The working set is a part of every checkpoint.

    Under ``bootstrap/`` it logs for each round ``num_foreground`` and ``num_background`` RoIs in
    the set, and for the next sweep ``sweep_seconds``, ``num_false_positives`` and ``num_added``.
    """

    def __init__(self, cfg: CfgNode):
        """Raises InputError if the configuration is not one to bootstrap with."""
        check_config(cfg)
        super().__init__(cfg)
        has = f"the first working set has {self.working_set.count()}"
        logger.info(f"Bootstrapping is active: {cfg.BOOTSTRAP.ROUNDS} rounds; {has}")

    @property
    def working_set(self) -> WorkingSet:
        return self.data_loader.working_set

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> WorkingSetLoader:
        return WorkingSetLoader(cfg, WorkingSet(cfg))

    def build_hooks(self) -> list[HookBase]:
        hooks = super().build_hooks()
        # After all that a checkpoint needs, and before what is logged is written.
        writers = [i for i, hook in enumerate(hooks) if isinstance(hook, PeriodicWriter)]
        hooks.insert(writers[0] if writers else len(hooks), SweepBetweenRounds())
        return hooks

    def end_round(self, next_round: int | None = None) -> None:
        """Sweep if there is a next round, and log the numbers of this one."""
        numbers = self.working_set.count()
        if next_round is not None:
            start = time.perf_counter()
            model = self.checkpointer.model  # without the wrapper for several processes
            indices, counts = sweep(self.cfg, model, self.working_set)
            numbers |= {**counts, "sweep_seconds": time.perf_counter() - start}
            self.working_set.indices, self.working_set.round = indices, next_round
        words = ", ".join(f"{name} {value:.6g}" for name, value in numbers.items())
        logger.info(f"Bootstrapping, end of a round: {words}")
        for name, value in numbers.items():
            self.storage.put_scalar(f"bootstrap/{name}", value, smoothing_hint=False)

    def state_dict(self) -> dict[str, Any]:
        own = {"working_set": self.working_set.state_dict()}
        return {**super().state_dict(), "bootstrap": own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raises InputError if the checkpoint is not of such a run on the same proposals."""
        if "bootstrap" not in state_dict:
            what = f"The last checkpoint in OUTPUT_DIR = {self.cfg.OUTPUT_DIR!r} has no working set"
            how = "Choose another OUTPUT_DIR, with that file as MODEL.WEIGHTS to start from it"
            raise InputError(f"{what}: it is of a run without bootstrapping. {how}")
        super().load_state_dict(state_dict)
        self.working_set.load_state_dict(state_dict["bootstrap"]["working_set"])
