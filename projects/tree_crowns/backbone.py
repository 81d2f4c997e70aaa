"""EfficientNet-Lite0, a trunk that a CPU can train, and a detector's backbone of it."""

import torch
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from efficientnet_lite_pytorch import EfficientNet


class EfficientNetLite0(Backbone):
    """
    The trunk of EfficientNet-Lite0. Its outputs at strides 4, 8, 16 and 32 bear the names that
    they have in a ResNet, res2 to res5. Batch normalization is frozen, as the few tiles of a step
    are no batch to take statistics of.
    """

    def __init__(self, freeze_at: int = 0):
        """
        So many stages from the input are not trained: 1 is the stem and what follows at stride 2, 2
        adds res2, and so on.
        """
        super().__init__()
        net = EfficientNet.from_name("efficientnet-lite0")
        self.stem = torch.nn.Sequential(net._conv_stem, net._bn0, net._swish)
        self.blocks = net._blocks
        FrozenBatchNorm2d.convert_frozen_batchnorm(self)

        if freeze_at >= 1:
            self.stem.requires_grad_(False)
        stage, last_blocks = 1, {}
        self._out_feature_strides, self._out_feature_channels = {}, {}
        for index, block in enumerate(self.blocks):
            stage += block._depthwise_conv.stride[0] == 2
            if stage <= freeze_at:
                block.requires_grad_(False)
            if stage >= 2:
                last_blocks[f"res{stage}"] = index
                self._out_feature_strides[f"res{stage}"] = 2**stage
                self._out_feature_channels[f"res{stage}"] = block._project_conv.out_channels
        self._last_blocks = last_blocks  # by the feature that each ends
        self._out_features = list(last_blocks)

    def drop_blocks_after(self, feature: str) -> None:
        """For detectors that use no deeper feature than this one."""
        self.blocks = self.blocks[: self._last_blocks[feature] + 1]
        self._out_features = [f for f in self._out_features if f <= feature]

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """From images (N, 3, H, W), H and W multiples of 32, to feature maps by name."""
        outputs, features = {}, {index: name for name, index in self._last_blocks.items()}
        x = self.stem(x)
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in features:
                outputs[features[index]] = x
        return outputs


@BACKBONE_REGISTRY.register()
def build_efficientnet_lite0_fpn_backbone(cfg, input_shape: ShapeSpec) -> FPN:
    """Reads ``MODEL.BACKBONE.FREEZE_AT`` and ``MODEL.FPN``."""
    trunk, fpn = EfficientNetLite0(cfg.MODEL.BACKBONE.FREEZE_AT), cfg.MODEL.FPN
    how = {"norm": fpn.NORM, "top_block": LastLevelMaxPool(), "fuse_type": fpn.FUSE_TYPE}
    return FPN(trunk, fpn.IN_FEATURES, fpn.OUT_CHANNELS, **how)
