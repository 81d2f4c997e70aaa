"""The focal loss for the box heads of an R-CNN: the other way to make hard examples count."""

from .losses import sigmoid_focal_loss, softmax_focal_loss
from .roi_heads import FocalLossOutputLayers, FocalROIHeads, OHEMFocalROIHeads, add_focal_config

__all__ = [
    "FocalLossOutputLayers",
    "FocalROIHeads",
    "OHEMFocalROIHeads",
    "add_focal_config",
    "sigmoid_focal_loss",
    "softmax_focal_loss",
]
