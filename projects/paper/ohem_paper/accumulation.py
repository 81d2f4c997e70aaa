"""Gradient accumulation: one optimizer step from several forward and backward passes."""

import contextlib
import time
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import AMPTrainer, SimpleTrainer
from torch.nn.parallel import DistributedDataParallel

from ..compat import copy_options, mixed_precision, run_after_backward, write_metrics


def add_accumulation_config(cfg: CfgNode) -> None:
    """Add the key ``SOLVER.ACCUMULATION_STEPS`` with its default, in place, unless it is there."""
    if "ACCUMULATION_STEPS" not in cfg.SOLVER:
        # An iteration of OHEMTrainer is so many batches of IMS_PER_BATCH images, one after another,
        # of whose gradients the mean is taken: N images an iteration at the memory of fewer.
        cfg.SOLVER.ACCUMULATION_STEPS = 1


class AccumulatingTrainer(SimpleTrainer):
    """
    ``SimpleTrainer`` whose iteration is ``passes`` batches of the data loader. The gradient is the
    mean of theirs, as with Caffe's ``iter_size``, by which the authors' release sees N images an
    iteration at the memory of one. Processes exchange gradients once an iteration.
    """

    def __init__(self, *args: Any, passes: int, **kwargs: Any):
        """``passes``: batches of an iteration, at least 1; the others are the parent's."""
        super().__init__(*args, **kwargs)
        self.passes = passes

    def run_step(self) -> None:
        """See the parent. What is logged is the mean over the passes."""
        assert self.model.training, "the model was changed to eval mode"
        self.optimizer.zero_grad()
        waited, total = 0.0, {}
        for number in range(1, self.passes + 1):
            start = time.perf_counter()
            data = next(self._data_loader_iter)
            waited += time.perf_counter() - start
            apart = isinstance(self.model, DistributedDataParallel) and number < self.passes
            with self.model.no_sync() if apart else contextlib.nullcontext():
                losses = self._backward_of(data)
            for name, loss in losses.items():
                total[name] = total.get(name, 0) + loss.detach() / self.passes
        run_after_backward(self)
        write_metrics(self, total, waited)
        self._update()

    def _backward_of(self, data: list[dict]) -> dict[str, torch.Tensor]:
        losses = self._losses(data)
        (sum(losses.values()) / self.passes).backward()
        return losses

    def _losses(self, data: list[dict]) -> dict[str, torch.Tensor]:
        losses = self.model(data)
        return {"total_loss": losses} if isinstance(losses, torch.Tensor) else losses

    def _update(self) -> None:
        self.optimizer.step()


class AccumulatingAMPTrainer(AccumulatingTrainer, AMPTrainer):
    """The same in mixed precision. The scale of the gradients changes only between iterations."""

    def _backward_of(self, data: list[dict]) -> dict[str, torch.Tensor]:
        device = next(self.model.parameters()).device.type
        with torch.autocast(device, dtype=mixed_precision(self)):
            losses = self._losses(data)
        self.grad_scaler.scale(sum(losses.values()) / self.passes).backward()
        return losses

    def _update(self) -> None:
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()


def accumulating(trainer: SimpleTrainer, passes: int) -> SimpleTrainer:
    """
    A trainer that accumulates, with the model, data and optimizer of the given one; the given one
    itself if ``passes`` is 1.

    Args:
        trainer: of Detectron2's own, as ``DefaultTrainer`` makes it.
        passes: batches of an iteration.

    Raises:
        ValueError: if ``passes`` is no whole number above 0.
        TypeError: if it is a trainer whose steps are not known here.
    """
    if type(passes) is not int or passes < 1:
        raise ValueError(f"SOLVER.ACCUMULATION_STEPS = {passes!r}; allowed: a whole number >= 1")
    if passes == 1:
        return trainer
    if type(trainer) not in (SimpleTrainer, AMPTrainer):
        raise TypeError(
            f"SOLVER.ACCUMULATION_STEPS = {passes} replaces the steps of Detectron2's trainers, "
            f"and {type(trainer).__name__} has steps of its own; allowed: 1"
        )
    parts = (trainer.model, trainer.data_loader, trainer.optimizer)
    if type(trainer) is SimpleTrainer:
        ret = AccumulatingTrainer(*parts, passes=passes)
    else:
        ret = AccumulatingAMPTrainer(*parts, passes=passes, grad_scaler=trainer.grad_scaler)
    copy_options(trainer, ret)
    return ret
