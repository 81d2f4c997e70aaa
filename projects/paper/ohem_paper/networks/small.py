"""
Two small trunks with one feature map, like VGG's, to replace VGG_CNN_M_1024 and VGG16 where there
is no GPU. They are EfficientNet-Lite0, pre-trained on ImageNet and frozen, so that only the RoI
network is trained.
"""

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch.nn import functional as F

from ohem_d2.tools.comparison.proxy import EfficientNetLite0


class LiteTrunk(Backbone):
    """
    The only feature is ``conv5``, as in :class:`.vgg.CaffeTrunk`: the named features of
    EfficientNet-Lite0 side by side, at the resolution of the first.
    """

    def __init__(self, features: list[str]):
        """``features``: from "res2" (stride 4) to "res5" (stride 32), finest first."""
        super().__init__()
        self.bottom_up = EfficientNetLite0(freeze_at=5)  # all stages
        shapes = self.bottom_up.output_shape()
        self._features, self._out_features = features, ["conv5"]
        self._out_feature_channels = {"conv5": sum(shapes[f].channels for f in features)}
        self._out_feature_strides = {"conv5": shapes[features[0]].stride}
        # The deeper blocks are not needed.
        blocks = self.bottom_up.last_blocks[features[-1]] + 1
        self.bottom_up.blocks = self.bottom_up.blocks[:blocks]

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Images (N, 3, H, W) -> ``{"conv5": (N, C, about H / stride, about W / stride)}``."""
        found = self.bottom_up(x)
        maps = [found[f] for f in self._features]
        maps = [F.interpolate(m, maps[0].shape[2:], mode="bilinear") for m in maps]
        return {"conv5": torch.cat(maps, dim=1)}


@BACKBONE_REGISTRY.register()
def build_lite_m_backbone(cfg, input_shape: ShapeSpec) -> LiteTrunk:
    """Replaces VGG_CNN_M_1024: shallow, 40 channels at stride 8."""
    return LiteTrunk(["res3"])


@BACKBONE_REGISTRY.register()
def build_lite_16_backbone(cfg, input_shape: ShapeSpec) -> LiteTrunk:
    """Replaces VGG16: deeper, 152 channels at stride 8."""
    return LiteTrunk(["res3", "res4"])
