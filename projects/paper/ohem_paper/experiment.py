"""What the experiments have in common: keys, data, and the trainers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import HookBase

from ohem_d2.tools.check import check_data
from ohem_d2.tools.data.datasets import register_datasets
from ohem_d2.tools.errors import InputError
from ohem_d2.tools.keys import check_config
from ohem_d2.tools.load_model import default_cfg, merge
from ohem_d2.tools.training.trainer import OHEMTrainer

from . import loss_layer, voc  # noqa: F401  register heads, and VOC without difficult objects
from .accumulation import accumulating, add_accumulation_config
from .bg_lo import add_bg_lo_config
from .bootstrapping import BootstrapTrainer
from .networks import small  # noqa: F401  registers backbones
from .networks.vgg import add_vgg_config
from .proposals.files import check_proposals
from .training_loss import TrainingLossHook


def paper_cfg() -> CfgNode:
    """Detectron2's defaults with every key of the project."""
    cfg = default_cfg()
    for add in (add_vgg_config, add_bg_lo_config, add_accumulation_config, add_settings):
        add(cfg)
    # "online": a sampler chooses RoIs in every iteration. "bootstrapping": see bootstrapping.py
    cfg.SOLVER.TRAINER = "online"
    return cfg


def add_settings(cfg: CfgNode) -> None:
    """Add the nodes ``BOOTSTRAP`` and ``TRAINING_LOSS`` with their defaults, in place."""
    cfg.BOOTSTRAP, cfg.TRAINING_LOSS = CfgNode(), CfgNode()
    # Rounds of training on a fixed working set; between them are ROUNDS - 1 sweeps.
    cfg.BOOTSTRAP.ROUNDS = 4
    # The number of background proposals of each image, chosen at random, in the first working set.
    # It has all foreground proposals.
    cfg.BOOTSTRAP.INITIAL_BACKGROUND = 64
    # A background RoI is a false positive if its highest score of an object class is above this.
    cfg.BOOTSTRAP.SCORE_THRESH = 0.1
    # The most false positives of an image that a sweep adds, those with the highest scores. 0: all
    # of them.
    cfg.BOOTSTRAP.MAX_PER_IMAGE = 100
    # The loss over all RoIs of the training set is measured at intervals of this many iterations,
    # from before the first to after the last. 0: never.
    cfg.TRAINING_LOSS.PERIOD = 0
    # On this many images of it, spread evenly over the data set. 0: on all.
    cfg.TRAINING_LOSS.NUM_IMAGES = 0


def load_config(file: str | Path, overrides: Sequence[Any] = ()) -> CfgNode:
    """
    The configuration of an experiment, with overrides KEY, VALUE, KEY, VALUE...; also registers its
    data sets. Raises InputError for impossible values.
    """
    cfg = merge(paper_cfg(), str(file), overrides)
    if cfg.SOLVER.TRAINER not in TRAINERS:
        raise InputError(f"SOLVER.TRAINER = {cfg.SOLVER.TRAINER!r}; allowed: {list(TRAINERS)}")
    check_settings(cfg)
    classes = register_datasets((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))
    if classes:
        cfg.MODEL.ROI_HEADS.NUM_CLASSES = len(classes)
    return cfg


def check_settings(cfg: CfgNode) -> None:
    """Raises InputError for an impossible value, which it names with what is allowed."""
    least = {
        "BOOTSTRAP": {"ROUNDS": 1, "INITIAL_BACKGROUND": 0, "MAX_PER_IMAGE": 0},
        "TRAINING_LOSS": {"PERIOD": 0, "NUM_IMAGES": 0},
    }
    for node, keys in least.items():
        for key, number in keys.items():
            if type(value := cfg[node][key]) is not int or value < number:
                allowed = f"a whole number >= {number}"
                raise InputError(f"{node}.{key} = {value!r}; allowed: {allowed}")
    thresh, rounds, most = cfg.BOOTSTRAP.SCORE_THRESH, cfg.BOOTSTRAP.ROUNDS, cfg.SOLVER.MAX_ITER
    if not (type(thresh) in (int, float) and 0 <= thresh < 1):
        raise InputError(f"BOOTSTRAP.SCORE_THRESH = {thresh!r}; allowed: a score, 0 to below 1")
    if cfg.SOLVER.get("TRAINER") == "bootstrapping" and rounds > most:
        allowed = f"up to SOLVER.MAX_ITER, which is {most}"
        raise InputError(f"BOOTSTRAP.ROUNDS = {rounds!r}; allowed: {allowed}")


def check_files(cfg: CfgNode, training: bool = True) -> None:
    """Raises InputError, before hours are spent, for what would stop a run."""
    check_config(cfg, training)
    check_data(cfg, training)
    for split in ("TRAIN", "TEST") if training else ("TEST",):
        for name in cfg.DATASETS[split] if cfg.MODEL.LOAD_PROPOSALS else ():
            check_proposals(cfg, name, split)


class _Experiment:
    """What both trainers have: gradient accumulation and the training loss."""

    def __init__(self, cfg: CfgNode):
        super().__init__(cfg)
        self._trainer = accumulating(self._trainer, cfg.SOLVER.ACCUMULATION_STEPS)

    def build_hooks(self) -> list[HookBase]:
        hooks = super().build_hooks()
        if self.cfg.TRAINING_LOSS.PERIOD > 0:
            hooks.insert(0, TrainingLossHook(self.cfg))  # before the timer of iterations
        return hooks


class PaperTrainer(_Experiment, OHEMTrainer):
    """One of the paper's experiments with a sampler."""


class BootstrapPaperTrainer(_Experiment, BootstrapTrainer):
    """The same network, data and schedule with classic bootstrapping."""


# by SOLVER.TRAINER
TRAINERS = {"online": PaperTrainer, "bootstrapping": BootstrapPaperTrainer}
