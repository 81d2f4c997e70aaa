"""EfficientNet-Lite0 with a feature pyramid: a detector's backbone that a CPU can train."""

from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN
from detectron2.modeling.backbone.fpn import LastLevelMaxPool

from projects.tree_crowns.efficientnet import EfficientNetLite0


@BACKBONE_REGISTRY.register()
def build_efficientnet_lite0_fpn_backbone(cfg, input_shape: ShapeSpec) -> FPN:
    """Reads ``MODEL.BACKBONE.FREEZE_AT`` and ``MODEL.FPN``."""
    return FPN(
        bottom_up=EfficientNetLite0(cfg.MODEL.BACKBONE.FREEZE_AT),
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
