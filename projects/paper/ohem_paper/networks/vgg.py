"""
The networks of the paper (Sec. 5): VGG16 and VGG_CNN_M_1024 as backbones of stride 16, and their
two fully connected layers as box head.

Layers have names to which Detectron2's loader maps those of Caffe: ``conv1_1_w`` becomes
``stem.conv1.1.weight``, ``conv3_2_w`` ``conv3.2.weight``, and ``fc6_w`` ``box_head.fc1.weight``.

Shape shorthand: N images, R RoIs, C channels, S bins along a side of a pooled RoI.
"""

from collections import OrderedDict

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.roi_heads import ROI_BOX_HEAD_REGISTRY, FastRCNNConvFCHead
from torch import Tensor, nn
from torch.nn import functional as F

from ohem_d2.tools.errors import InputError

Blocks = OrderedDict[str, nn.Module]


class CaffeTrunk(Backbone):
    """
    Convolutional blocks one after another, whose only feature is ``conv5``, of stride 16. As in
    Caffe, the output size of a convolution is rounded down, and that of a pooling up.
    """

    def __init__(self, blocks: Blocks, channels: int, freeze_at: int):
        """
        ``blocks`` are ``conv1`` to ``conv5`` by name, each with its pooling. The last one has
        ``channels`` outputs. The first ``freeze_at`` blocks are not trained.
        """
        super().__init__()
        if not 0 <= freeze_at <= len(blocks):
            allowed = f"0 to {len(blocks)}, the number of blocks that are frozen"
            raise InputError(f"MODEL.BACKBONE.FREEZE_AT = {freeze_at!r}; allowed: {allowed}")
        first, *others = blocks.items()
        self.stem = nn.Sequential(OrderedDict([first]))
        for name, block in others:
            self.add_module(name, block)
        for block in list(self.children())[:freeze_at]:
            block.requires_grad_(False)
        self._out_features = ["conv5"]
        self._out_feature_channels, self._out_feature_strides = {"conv5": channels}, {"conv5": 16}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Images (N, 3, H, W) -> ``{"conv5": (N, C, about H / 16, about W / 16)}``."""
        for block in self.children():
            x = block(x)
        return {"conv5": x}


def vgg16_blocks() -> tuple[Blocks, int]:
    """13 convolutions of 3 x 3; pooling after the first four blocks (Simonyan, Zisserman 2014)."""
    blocks, channels = OrderedDict(), 3
    for number, (width, depth) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)), 1):
        layers = OrderedDict()
        for i in range(1, depth + 1):
            layers[f"{i}"] = nn.Conv2d(channels, width, 3, padding=1)
            layers[f"relu{i}"] = nn.ReLU(inplace=True)
            channels = width
        if number < 5:
            layers["pool"] = nn.MaxPool2d(2, 2, ceil_mode=True)
        blocks[f"conv{number}"] = nn.Sequential(layers)
    return blocks, channels


class ReLUConv(nn.Conv2d):
    """Convolution and ReLU, with the parameter names of a convolution."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu_()


class NormalizedConv(ReLUConv):
    """ReLUConv with local response normalization and pooling."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.local_response_norm(super().forward(x), size=5, alpha=5e-4, beta=0.75, k=2.0)
        return F.max_pool2d(x, 3, 2, ceil_mode=True)


def vgg_m_blocks() -> tuple[Blocks, int]:
    """VGG_CNN_M_1024 (Chatfield et al. 2014): wide strides first, then 3 x 3 at stride 16."""
    blocks = OrderedDict(
        conv1=NormalizedConv(3, 96, 7, stride=2),
        conv2=NormalizedConv(96, 256, 5, stride=2, padding=1),
        conv3=ReLUConv(256, 512, 3, padding=1),
        conv4=ReLUConv(512, 512, 3, padding=1),
        conv5=ReLUConv(512, 512, 3, padding=1),
    )
    return blocks, 512


@BACKBONE_REGISTRY.register()
def build_vgg16_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> CaffeTrunk:
    """Reads ``MODEL.BACKBONE.FREEZE_AT``; the paper's is 2 (conv1_x and conv2_x)."""
    return CaffeTrunk(*vgg16_blocks(), cfg.MODEL.BACKBONE.FREEZE_AT)


@BACKBONE_REGISTRY.register()
def build_vgg_m_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> CaffeTrunk:
    """Reads ``MODEL.BACKBONE.FREEZE_AT``; the paper's is 1 (conv1)."""
    return CaffeTrunk(*vgg_m_blocks(), cfg.MODEL.BACKBONE.FREEZE_AT)


@ROI_BOX_HEAD_REGISTRY.register()
class VGGBoxHead(FastRCNNConvFCHead):
    """
    fc6 and fc7, each with ReLU and dropout: (R, C, S, S) -> (R, width of fc7). They are called fc1
    and fc2, as in Detectron2's own box head, because its loader maps fc6 and fc7 to these.
    """

    @configurable
    def __init__(self, input_shape: ShapeSpec, *, fc_dims: tuple[int, int], dropout: float = 0.5):
        """``fc_dims``: 4096 and 4096 in VGG16, 4096 and 1024 in VGG_M."""
        super().__init__(input_shape, conv_dims=[], fc_dims=list(fc_dims))
        for fc, relu in ((self.fc1, "fc_relu1"), (self.fc2, "fc_relu2")):
            # As the classifier of VGG is initialized, for training without ImageNet's weights.
            nn.init.normal_(fc.weight, std=0.005)
            nn.init.constant_(fc.bias, 0.1)
            setattr(self, relu, nn.Sequential(nn.ReLU(inplace=True), nn.Dropout(dropout)))

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        box = cfg.MODEL.ROI_BOX_HEAD
        dims = {"fc_dims": box.VGG_FC_DIMS, "dropout": box.VGG_DROPOUT}
        return {"input_shape": input_shape, **dims}


def add_vgg_config(cfg: CfgNode) -> None:
    """The keys of :class:`VGGBoxHead`."""
    cfg.MODEL.ROI_BOX_HEAD.VGG_FC_DIMS = [4096, 4096]  # widths of fc6 and fc7
    cfg.MODEL.ROI_BOX_HEAD.VGG_DROPOUT = 0.5  # after each
