"""What the experiments have in common: keys, data, and the trainers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.engine import HookBase

from ohem_d2.tools.check import check_data
from ohem_d2.tools.data.datasets import register_datasets
from ohem_d2.tools.data.records import proposal_file
from ohem_d2.tools.errors import InputError
from ohem_d2.tools.keys import check_config
from ohem_d2.tools.load_model import default_cfg, merge
from ohem_d2.tools.training.trainer import OHEMTrainer

from . import loss_layer, voc  # noqa: F401  register heads, and VOC without difficult objects
from .accumulation import accumulating, add_accumulation_config
from .bg_lo import add_bg_lo_config
from .bootstrapping.trainer import BootstrapTrainer
from .networks.vgg import add_vgg_config
from .proposals.files import check_proposal_file
from .settings import add_settings, check_settings
from .training_loss import TrainingLossHook


def paper_cfg() -> CfgNode:
    """Detectron2's defaults with every key of the project."""
    cfg = default_cfg()
    for add in (add_vgg_config, add_bg_lo_config, add_accumulation_config, add_settings):
        add(cfg)
    # "online": a sampler chooses RoIs in every iteration. "bootstrapping": see bootstrapping/
    cfg.SOLVER.TRAINER = "online"
    return cfg


def load_config(file: str | Path, overrides: Sequence[Any] = ()) -> CfgNode:
    """
    The configuration of an experiment, with overrides KEY, VALUE, KEY, VALUE...; also registers its
    data sets. Raises InputError for impossible values.
    """
    cfg = merge(paper_cfg(), str(file), overrides)
    if cfg.SOLVER.TRAINER not in TRAINERS:
        raise InputError(f"SOLVER.TRAINER = {cfg.SOLVER.TRAINER!r}; allowed: {list(TRAINERS)}")
    check_settings(cfg)
    import_networks(cfg)
    classes = register_datasets((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))
    if classes:
        cfg.MODEL.ROI_HEADS.NUM_CLASSES = len(classes)
    return cfg


def import_networks(cfg: CfgNode) -> None:
    """Register what the configuration names and few need: it takes what the demo takes."""
    if cfg.MODEL.BACKBONE.NAME.startswith("build_lite"):
        from .networks import small  # noqa: F401


def check_files(cfg: CfgNode, training: bool = True) -> None:
    """Raises InputError, before hours are spent, for what would stop a run."""
    check_config(cfg, training)
    check_data(cfg, training)
    for split in ("TRAIN", "TEST") if training else ("TEST",):
        for name in cfg.DATASETS[split] if cfg.MODEL.LOAD_PROPOSALS else ():
            check_proposal_file(Path(proposal_file(cfg, name, split)), DatasetCatalog.get(name))


class _Experiment:
    """What a configuration may ask of both trainers."""

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
