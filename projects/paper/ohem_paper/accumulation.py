"""Gradient accumulation: one optimizer step from several forward and backward passes."""

import contextlib
import time
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import SimpleTrainer
from torch.nn.parallel import DistributedDataParallel

from ohem_d2.tools.errors import InputError


def add_accumulation_config(cfg: CfgNode) -> None:
    """Add the key ``SOLVER.ACCUMULATION_STEPS`` with its default, unless it is there."""
    # The number of batches of IMS_PER_BATCH images per iteration. Their gradients are averaged, so
    # N images per iteration take the memory of fewer.
    cfg.SOLVER.setdefault("ACCUMULATION_STEPS", 1)


class AccumulatingTrainer(SimpleTrainer):
    """
    ``SimpleTrainer`` whose iteration is ``passes`` batches of the data loader. The gradient is the
    mean of theirs, as with Caffe's ``iter_size`` in the authors' release; means over the passes are
    logged. Processes exchange gradients once an iteration.
    """

    def __init__(self, *args: Any, passes: int, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.passes = passes

    def run_step(self) -> None:
        assert self.model.training, "the model was changed to eval mode"
        self.optimizer.zero_grad()
        waited, means = 0.0, {}
        for number in range(1, self.passes + 1):
            start = time.perf_counter()
            data = next(self._data_loader_iter)
            waited += time.perf_counter() - start
            apart = isinstance(self.model, DistributedDataParallel) and number < self.passes
            with self.model.no_sync() if apart else contextlib.nullcontext():
                losses = self.model(data)
                (sum(losses.values()) / self.passes).backward()
            for name, loss in losses.items():
                means[name] = means.get(name, 0) + loss.detach() / self.passes
        getattr(self, "after_backward", lambda: None)()  # v0.6 has none
        self._write_metrics(means, waited)
        self.optimizer.step()


def accumulating(trainer: SimpleTrainer, passes: int) -> SimpleTrainer:
    """
    A trainer that accumulates over ``passes`` batches, with the parts of the given trainer, or that
    one itself for 1. Raises InputError unless ``passes`` is a whole number above 0, TypeError for a
    trainer with other steps than ``SimpleTrainer``, such as those of mixed precision.
    """
    key = f"SOLVER.ACCUMULATION_STEPS = {passes!r}"
    if type(passes) is not int or passes < 1:
        raise InputError(f"{key}; allowed: a whole number >= 1")
    if passes == 1:
        return trainer
    if type(trainer) is not SimpleTrainer:
        name = type(trainer).__name__
        raise TypeError(f"{key} replaces Detectron2's steps, and {name} has its own; allowed: 1")
    parts = trainer.model, trainer.data_loader, trainer.optimizer
    ret = AccumulatingTrainer(*parts, passes=passes)
    if hasattr(trainer, "gather_metric_period"):  # v0.6 has none
        ret.gather_metric_period = trainer.gather_metric_period
    return ret
