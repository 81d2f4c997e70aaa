"""The recipe of this project: its configuration, its data, its trainer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.engine import HookBase
from detectron2.modeling import DatasetMapperTTA, GeneralizedRCNNWithTTA
from detectron2.solver.build import get_default_optimizer_params
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ohem_d2 import CrowdDatasetMapper
from ohem_d2.tools.data.datasets import register_datasets
from ohem_d2.tools.files import write_atomically
from ohem_d2.tools.load_model import default_cfg, merge
from ohem_d2.tools.training.trainer import OHEMTrainer
from projects.tree_crowns import backbone, prepare_data  # noqa: F401  registers a backbone

CONFIGS = Path(__file__).resolve().parent / "configs"


class AverageWeights(HookBase):
    """
    At the end of the training the moving average of the weights replaces the last ones: it takes
    out the noise of steps on two tiles.
    """

    DECAY = 0.995  # two hundred iterations or so count

    def __init__(self) -> None:
        self._loaded: dict = {}  # of a checkpoint that is resumed from

    def before_train(self) -> None:
        average = get_ema_multi_avg_fn(self.DECAY)
        self._average = AveragedModel(self.trainer.model, multi_avg_fn=average)
        if self._loaded:
            self._average.load_state_dict(self._loaded)

    def state_dict(self) -> dict:
        return self._average.state_dict()

    def load_state_dict(self, state: dict) -> None:
        self._loaded = state

    def after_step(self) -> None:
        self._average.update_parameters(self.trainer.model)
        if self.trainer.iter + 1 == self.trainer.max_iter:
            self.trainer.model.load_state_dict(self._average.module.state_dict())


class RelativeScales(DatasetMapperTTA):
    """Test-time augmentation by factors of an image's size, as tiles differ in size."""

    FACTORS = (0.85, 1.0, 1.2)

    def __call__(self, dataset_dict: dict) -> list[dict]:
        shortest = min(dataset_dict["height"], dataset_dict["width"])
        self.min_sizes = [round(factor * shortest) for factor in self.FACTORS]
        return super().__call__(dataset_dict)


class TreeTrainer(OHEMTrainer):
    """For photographs from above and few iterations."""

    @classmethod
    def test(cls, cfg: CfgNode, model: torch.nn.Module, evaluators: Any = None) -> dict:
        """See the parent; at several sizes and mirrored if TEST.AUG.ENABLED."""
        if cfg.TEST.AUG.ENABLED:
            model = GeneralizedRCNNWithTTA(cfg, model, tta_mapper=RelativeScales(cfg))
        return super().test(cfg, model, evaluators)

    @classmethod
    def build_train_mapper(cls, cfg: CfgNode) -> CrowdDatasetMapper:
        # Not flipped upside down: the sun is never in the north, and shadows help to find a crown.
        augmentations = [
            T.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN, "range"),
            T.RandomFlip(),
            # Other places have another soil, another season, another hour.
            T.RandomBrightness(0.7, 1.3),
            T.RandomContrast(0.7, 1.3),
            T.RandomSaturation(0.5, 1.5),
        ]
        return CrowdDatasetMapper(cfg, is_train=True, augmentations=augmentations)

    @classmethod
    def build_model(cls, cfg: CfgNode) -> torch.nn.Module:
        # The layout in which depthwise convolutions are fastest on a CPU
        return super().build_model(cfg).to(memory_format=torch.channels_last)

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: torch.nn.Module) -> torch.optim.Optimizer:
        decay = {"weight_decay": cfg.SOLVER.WEIGHT_DECAY, "weight_decay_norm": 0.0}
        parameters = get_default_optimizer_params(model, base_lr=cfg.SOLVER.BASE_LR, **decay)
        return torch.optim.AdamW(parameters, lr=cfg.SOLVER.BASE_LR)

    def build_hooks(self) -> list[HookBase]:
        # First, so that the checkpoint and the evaluation at the end are of the average
        return [AverageWeights(), *super().build_hooks()]


def train(cfg: CfgNode, resume: bool = False) -> TreeTrainer:
    """From the pre-trained trunk, or the last checkpoint if there is one to resume; and test."""
    trainer = TreeTrainer(cfg)
    trainer.resume_or_load(resume)
    trainer.train()
    return trainer


def setup(
    config: str, data: Path, output: Path, seed: int, overrides: Sequence[str] = ()
) -> CfgNode:
    """
    The frozen configuration of a run from a file in ``configs/`` and overrides KEY, VALUE...; also
    fetches the data into a folder if need be, and seeds everything.
    """
    prepare_data.prepare(data)
    cfg = merge(default_cfg(), str(CONFIGS / config))
    cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    cfg.MODEL.WEIGHTS = str(data / "efficientnet_lite0.pth")
    cfg.DATASETS.TRAIN = (f"coco:{data / 'train.json'}:{data / 'tiles'}",)
    cfg.DATASETS.TEST = (f"coco:{data / 'test.json'}:{data / 'tiles'}",)
    cfg.OUTPUT_DIR = str(output)
    cfg.SEED = seed
    cfg.merge_from_list(list(overrides))
    register_datasets((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))
    cfg.freeze()
    for name in ("detectron2", "fvcore"):
        setup_logger(cfg.OUTPUT_DIR, name=name)
    seed_all_rng(seed)
    # for the report of a run and for tests of one's own
    write_atomically(Path(cfg.OUTPUT_DIR, "config.yaml"), cfg.dump())
    return cfg
