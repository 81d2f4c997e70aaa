"""What the experiments have in common: keys, data, and the trainers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import HookBase

from ohem_d2.tools.data.datasets import must_exist, register_datasets
from ohem_d2.tools.load_model import default_cfg, merge
from ohem_d2.tools.training.trainer import OHEMTrainer

from . import voc  # noqa: F401  registers Pascal VOC without its difficult objects
from .bootstrapping.trainer import BootstrapTrainer
from .inference.model import with_test_time_extras
from .networks.vgg import add_vgg_config
from .proposals.files import check_proposal_file, files_by_data
from .settings import BootstrapSettings, BoxVoting, MultiScale, TrainingLoss
from .training_loss import TrainingLossHook


def paper_cfg() -> CfgNode:
    """Detectron2's defaults with every key of the project."""
    cfg = default_cfg()
    add_vgg_config(cfg)
    for settings in (MultiScale, BoxVoting, BootstrapSettings, TrainingLoss):
        settings.add_to(cfg)
    # "online": a sampler chooses RoIs in every iteration. "bootstrapping": see bootstrapping/
    cfg.SOLVER.TRAINER = "online"
    return cfg


def load_config(file: str | Path, overrides: Sequence[Any] = ()) -> CfgNode:
    """
    The configuration of an experiment, with overrides KEY, VALUE, KEY, VALUE...; also registers its
    data sets. Raises ValueError for a trainer that there is not.
    """
    cfg = merge(paper_cfg(), str(file), overrides)
    if cfg.SOLVER.TRAINER not in TRAINERS:
        raise ValueError(f"SOLVER.TRAINER = {cfg.SOLVER.TRAINER!r}; allowed: {list(TRAINERS)}")
    for settings in (MultiScale, BoxVoting, TrainingLoss):  # Some are not read before the test.
        settings.from_cfg(cfg)
    import_networks(cfg)
    classes = register_datasets((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))
    if classes:
        cfg.MODEL.ROI_HEADS.NUM_CLASSES = len(classes)
    return cfg


def import_networks(cfg: CfgNode) -> None:
    """Register what the configuration names and few need: it takes what the demo takes."""
    if cfg.MODEL.BACKBONE.NAME.startswith("build_lite"):
        from .networks import small  # noqa: F401


def check_files(cfg: CfgNode) -> None:
    """
    Raises, before hours are spent, FileNotFoundError or ValueError for weights or proposals that
    are missing, proposals that do not fit the data, and data sets that differ in their classes, and
    RuntimeError for a GPU that there is not.
    """
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        raise RuntimeError(
            f"MODEL.DEVICE = {cfg.MODEL.DEVICE!r}, and there is no GPU that PyTorch can use; "
            'allowed here: "cpu"'
        )
    if cfg.MODEL.WEIGHTS and "://" not in cfg.MODEL.WEIGHTS:
        source = "projects/paper/README.md says where to get it and how to convert it"
        must_exist(cfg.MODEL.WEIGHTS, f"MODEL.WEIGHTS; {source}")
    names, classes = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST), []
    for name in names:
        DatasetCatalog.get(name)  # some have their classes only then
        classes.append(MetadataCatalog.get(name).get("thing_classes"))
        if classes[-1] != classes[0]:
            raise ValueError(
                f"{names[0]} and {name} differ in their classes; a detector trained on the one "
                "cannot be tested on the other. Choose both of DATASETS.TRAIN and DATASETS.TEST"
            )
    if cfg.MODEL.LOAD_PROPOSALS:
        for name, file in (*files_by_data(cfg, "TRAIN"), *files_by_data(cfg, "TEST")):
            check_proposal_file(Path(file), DatasetCatalog.get(name))


class _Experiment:
    """Extras at test time, and the loss over all RoIs, where the configuration asks for them."""

    @classmethod
    def test(cls, cfg: CfgNode, model: torch.nn.Module, evaluators: Any = None) -> dict:
        return super().test(cfg, with_test_time_extras(cfg, model), evaluators)

    def build_hooks(self) -> list[HookBase]:
        hooks = super().build_hooks()
        if TrainingLoss.from_cfg(self.cfg).period > 0:
            hooks.insert(0, TrainingLossHook(self.cfg))  # before the timer of iterations
        return hooks


class PaperTrainer(_Experiment, OHEMTrainer):
    """One of the paper's experiments with a sampler."""


class BootstrapPaperTrainer(_Experiment, BootstrapTrainer):
    """The same network, data and schedule with classic bootstrapping."""


# by SOLVER.TRAINER
TRAINERS = {"online": PaperTrainer, "bootstrapping": BootstrapPaperTrainer}
