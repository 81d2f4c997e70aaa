"""What the box branch of ROI heads predicts for given RoIs, outside of training and of NMS."""

import functools
from collections.abc import Callable

import torch
from detectron2.modeling.roi_heads import CascadeROIHeads, Res5ROIHeads, StandardROIHeads
from detectron2.structures import Instances
from torch import nn

from ohem_d2 import OHEMMixin, OHEMRes5ROIHeads

# Feature maps by name and RoIs, R in all -> box predictor, and its scores (R, K + 1) and deltas
# (R, 4 or 4K)
Predict = Callable[
    [dict[str, torch.Tensor], list[Instances]], tuple[nn.Module, tuple[torch.Tensor, torch.Tensor]]
]


def box_branch(heads: nn.Module, user: str) -> Predict:
    """
    Args:
        heads: Detectron2's or OHEM's standard or C4 heads or some that build on them, or any with a
            ``score_rois`` such as that of ``OHEMMixin``; no cascade.
        user: what takes them, for the error.

    Raises:
        TypeError: for heads whose box branch is not known.
    """
    if not isinstance(heads, CascadeROIHeads):
        if hasattr(heads, "score_rois"):
            return heads.score_rois
        if getattr(type(heads), "_forward_box", None) is StandardROIHeads._forward_box:
            return functools.partial(OHEMMixin.score_rois, heads)
        if type(heads).forward is Res5ROIHeads.forward:
            return functools.partial(OHEMRes5ROIHeads.score_rois, heads)
    raise TypeError(
        f"{user} does not know how {type(heads).__name__} scores boxes, which has a box branch of "
        "its own. Give it a method score_rois(features, proposals) such as that of "
        "ohem_d2.OHEMMixin; a cascade has to keep CascadeROIHeads._forward_box()"
    )
