"""What the box branch of ROI heads predicts for given RoIs, outside of training and before NMS."""

from typing import Any

from detectron2.modeling.roi_heads import CascadeROIHeads, StandardROIHeads
from detectron2.structures import Instances
from torch import Tensor, nn

from ohem_d2 import OHEMMixin


def score_boxes(
    heads: nn.Module, features: dict[str, Tensor], proposals: list[Instances]
) -> tuple[nn.Module, Any]:
    """
    The box predictor and its predictions for all RoIs: an ``Instances`` with ``proposal_boxes`` for
    each image. Features are maps by name. Raises TypeError unless the heads score boxes as
    ``StandardROIHeads`` or OHEM's heads do, in one stage.
    """
    standard = getattr(type(heads), "_forward_box", None) is StandardROIHeads._forward_box
    if not (standard or isinstance(heads, OHEMMixin)) or isinstance(heads, CascadeROIHeads):
        name, allowed = type(heads).__name__, "StandardROIHeads or heads of ohem_d2, no cascade"
        raise TypeError(f"{name} scores boxes in another way; allowed: {allowed}")
    return getattr(type(heads), "score_rois", OHEMMixin.score_rois)(heads, features, proposals)
