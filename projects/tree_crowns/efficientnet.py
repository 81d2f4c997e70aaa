"""EfficientNet-Lite0, a trunk that a CPU can train. Importing this registers nothing."""

import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import Backbone
from efficientnet_lite_pytorch import EfficientNet


class EfficientNetLite0(Backbone):
    """
    The trunk of EfficientNet-Lite0. Its outputs at strides 4, 8, 16 and 32 bear the names that
    they have in a ResNet, res2 to res5.

    Batch normalization is frozen, as the few tiles of a step are no batch to take statistics of.
    """

    def __init__(self, freeze_at: int = 0):
        """
        Args:
            freeze_at: so many stages from the input are not trained: 1 is the stem and what
                follows at stride 2, 2 adds res2, and so on.
        """
        super().__init__()
        net = EfficientNet.from_name("efficientnet-lite0")
        self.stem = torch.nn.Sequential(net._conv_stem, net._bn0, net._swish)
        self.blocks = net._blocks
        FrozenBatchNorm2d.convert_frozen_batchnorm(self)

        stride, channels = 2, 0
        self._last_block: dict[int, str] = {}  # index of a block -> the feature that it ends
        self._out_feature_strides, self._out_feature_channels = {}, {}
        stage_of_block = []
        for index, block in enumerate(self.blocks):
            step = block._depthwise_conv.stride[0]
            if step == 2 and stride >= 4:
                self._end_feature(index - 1, stride, channels)
            stride *= step
            channels = block._project_conv.out_channels
            stage_of_block.append(stride.bit_length() - 1)
        self._end_feature(len(self.blocks) - 1, stride, channels)
        self._out_features = list(self._out_feature_strides)

        if freeze_at >= 1:
            self.stem.requires_grad_(False)
        for block, stage in zip(self.blocks, stage_of_block):
            if stage <= freeze_at:
                block.requires_grad_(False)

    def _end_feature(self, block: int, stride: int, channels: int) -> None:
        name = f"res{stride.bit_length() - 1}"
        self._last_block[block] = name
        self._out_feature_strides[name] = stride
        self._out_feature_channels[name] = channels

    def drop_blocks_after(self, feature: str) -> None:
        """For detectors that use no deeper feature than this one."""
        last = next(block for block, name in self._last_block.items() if name == feature)
        self.blocks = self.blocks[: last + 1]
        self._out_features = [f for f in self._out_features if f <= feature]

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """
        Args:
            x: images of shape (N, 3, H, W), H and W multiples of 32.

        Returns:
            feature maps by name.
        """
        outputs = {}
        x = self.stem(x)
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self._last_block:
                outputs[self._last_block[index]] = x
        return outputs
