"""Resume an interrupted run as if it had never stopped, or say why that is impossible."""

import logging
from collections.abc import Iterator
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.engine.hooks import EvalHook
from detectron2.utils import comm
from torch import nn
from torch.optim import Optimizer

from ..errors import InputError
from ..runs import read_metrics
from .batches import ResumableLoader
from .checkpoints import Checkpointer, load_torch
from .seeds import ITERATION, run_seed, seed_all, seed_at

logger = logging.getLogger(__name__)

# What a checkpoint restores in the optimizer's parameter groups, and the keys that set it
_BROUGHT_BACK = {
    "initial_lr": "SOLVER.BASE_LR",
    "weight_decay": "SOLVER.WEIGHT_DECAY",
    "momentum": "SOLVER.MOMENTUM",
    "nesterov": "SOLVER.NESTEROV",
}
_KINDS = {"betas", "nesterov", "rho", "alpha", "lr_decay"}  # keys that tell optimizers apart


class ExactResumption(HookBase):
    """Gives each iteration a seed of its own, and continues the data where it stopped."""

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
            why = "it is of an earlier version, or of a loader that is not a ResumableLoader"
            unknown = "The checkpoint does not say which images were seen"
            logger.warning(f"{unknown}, and the data begins anew: {why}")

    def before_step(self) -> None:
        seed_all(seed_at(self._seed, ITERATION, comm.get_rank(), self.trainer.iter))


class Evaluation(EvalHook):
    """Detectron2's hook, which also does an evaluation that an interruption has skipped."""

    def before_train(self) -> None:
        trainer, start = self.trainer, self.trainer.start_iter
        if not 0 < start < trainer.max_iter or self._period <= 0 or start % self._period:
            return
        logged = read_metrics(trainer.cfg.OUTPUT_DIR)
        done = any("/AP" in name for r in logged if r.get("iteration") == start - 1 for name in r)
        if not comm.all_gather(done)[0]:  # the main process has the file
            trainer.storage.iter = start - 1
            self._do_eval()
            trainer.storage.iter = start


def resumption_notes(cfg: CfgNode, model: nn.Module, optimizer: Optimizer) -> Iterator[str]:
    """What ``--resume`` ignores. InputError if the checkpoint does not fit the configuration."""
    folder, checkpointer = cfg.OUTPUT_DIR, Checkpointer(model, cfg.OUTPUT_DIR)  # unwraps the model
    if not checkpointer.has_checkpoint():
        yield f"--resume: there is no checkpoint in {folder}, and the training begins anew"
        return
    file = checkpointer.get_checkpoint_file()
    content = load_torch(file)
    anew = f"To begin anew with its weights, set MODEL.WEIGHTS {file} and another OUTPUT_DIR"
    saved, own = content["model"], checkpointer.model.state_dict()
    lacking = [name for name in own if name not in saved]
    other = [name for name in own if name in saved and own[name].shape != saved[name].shape]
    if lacking or other:
        name = (other or lacking)[0]
        there = f"of shape {tuple(saved[name].shape)}" if other else "missing"
        here = f"of shape {tuple(own[name].shape)}"
        why = "Another number of classes?" if "predictor" in name else "Another architecture?"
        of_another = f"{file} is of another model: {name} is {there} there, and {here} here"
        raise InputError(f"--resume: {of_another}. {why} {anew}")
    trainer = content.get("trainer", {}).get("_trainer", content.get("trainer", {}))
    if cfg.SOLVER.AMP.ENABLED and "grad_scaler" not in trainer:
        raise InputError(f"--resume: {file} was trained with SOLVER.AMP.ENABLED False. {anew}")
    groups, own_groups = trainer.get("optimizer", {}).get("param_groups"), optimizer.param_groups
    groups = groups or own_groups  # a file without an optimizer, with the model alone
    kinds = [[(_KINDS & g.keys(), len(g["params"])) for g in p] for p in (groups, own_groups)]
    if kinds[0] != kinds[1]:
        what = "with another optimizer, other parts frozen, or other SOLVER.WEIGHT_DECAY_..."
        raise InputError(f"--resume: {file} was trained {what}. {anew}")
    for key, name in _BROUGHT_BACK.items():
        before, now = ([g[key] for g in part if key in g] for part in (groups, own_groups))
        if key == "initial_lr":  # the scheduler sets it in the run
            now = [g.get(key, g["lr"]) for g in own_groups]
        if before and before != now:
            old, new = next((b, n) for b, n in zip(before, now) if b != n)
            stays = f"{name} stays as in the checkpoint, {old}; {new} has no effect"
            yield f"--resume: {stays}. {anew}"
    seed = content.get("trainer", {}).get("hooks", {}).get("ExactResumption", {}).get("seed")
    if seed is not None and cfg.SEED not in (seed, -1):
        yield f"--resume: SEED stays as in the checkpoint, {seed}; {cfg.SEED} has no effect"
    if (done := trainer.get("iteration", -1) + 1) >= cfg.SOLVER.MAX_ITER:
        on = f"a larger SOLVER.MAX_ITER than {done} trains on"
        yield f"--resume: the run in {folder} is complete, with {done} iterations; {on}"
