"""What the box branch of ROI heads predicts for given RoIs, outside of training and before NMS."""

from typing import Any

from detectron2.modeling.roi_heads import CascadeROIHeads, FastRCNNOutputLayers, StandardROIHeads
from detectron2.structures import Instances
from torch import Tensor, nn

from ohem_d2 import OHEMMixin


def score_boxes(
    heads: nn.Module, features: dict[str, Tensor], proposals: list[Instances]
) -> tuple[nn.Module, Any]:
    """
    The box predictor and its predictions for all RoIs: an ``Instances`` with ``proposal_boxes`` for
    each image. Features are maps by name. For heads that :func:`check_heads` takes.
    """
    check_heads(heads)
    return getattr(type(heads), "score_rois", OHEMMixin.score_rois)(heads, features, proposals)


def check_heads(heads: nn.Module) -> None:
    """
    Raises TypeError unless heads score boxes as ``StandardROIHeads`` or OHEM's heads do, in one
    stage, with a predictor that detects as ``FastRCNNOutputLayers``.
    """
    forward_box = getattr(type(heads), "_forward_box", None)
    known = isinstance(heads, OHEMMixin) or forward_box is StandardROIHeads._forward_box
    if not known or isinstance(heads, CascadeROIHeads):
        name, allowed = type(heads).__name__, "StandardROIHeads or heads of ohem_d2, no cascade"
        raise TypeError(f"{name} scores boxes in another way; allowed: {allowed}")
    predictor = type(heads.box_predictor)
    if getattr(predictor, "inference", None) is not FastRCNNOutputLayers.inference:
        name = f"{type(heads).__name__} has {predictor.__name__}"
        raise TypeError(f"{name}, whose inference() is not that of FastRCNNOutputLayers")
