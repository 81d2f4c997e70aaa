"""Which heads can be mined for, and what to do where they cannot."""

from typing import Any

from detectron2.modeling.roi_heads import RROIHeads
from detectron2.structures import Instances
from torch import nn

from ..mining.losses import CannotMine, check_predictor
from ..mining.screening import BINS, can_fold
from .scored import Scored


def check_heads(heads: nn.Module) -> None:
    """
    When they are constructed. Raises ValueError if settings do not fit the heads, CannotMine or
    NotImplementedError if they or their predictor cannot be ranked by.
    """
    settings, name = heads.ohem, type(heads).__name__
    settings.check_budget(heads.batch_size_per_image)
    # Matchers of one's own need not have the attributes of Detectron2's.
    matcher = heads.proposal_matcher
    labels, thresholds = getattr(matcher, "labels", ()), getattr(matcher, "thresholds", ())
    ends = [high for label, high in zip(labels, thresholds[1:]) if label == 0]
    if ends and settings.bg_iou_low >= max(ends):
        raise ValueError(
            f"MODEL.ROI_HEADS.OHEM.BG_IOU_LOW = {settings.bg_iou_low} leaves no background; "
            f"allowed: below MODEL.ROI_HEADS.IOU_THRESHOLDS, {max(ends)}"
        )
    _check_branch(heads)
    predictor = getattr(heads, "box_predictor", None)
    is_cascade = isinstance(predictor, nn.ModuleList)
    if settings.cascade_stages == "all" and not is_cascade:
        raise ValueError(
            f"MODEL.ROI_HEADS.OHEM.CASCADE_STAGES = 'all' has no effect on {name}, which is no "
            "cascade; allowed: 'first'"
        )
    if settings.implementation not in heads.implementations:
        raise ValueError(
            f"MODEL.ROI_HEADS.OHEM.IMPLEMENTATION = {settings.implementation!r} takes heads whose "
            f"first base is ohem_d2.heads.loss_layer.LossLayerMixin, which {name} has not; "
            'allowed: "readonly"'
        )
    if settings.screening > 0:
        branch = heads.screened_branch()
        if branch is None or not can_fold(*branch[:2]):
            raise ValueError(
                f"MODEL.ROI_HEADS.OHEM.SCREENING = {settings.screening} takes a box head that "
                f"begins with a fully connected layer on RoIs of more than {BINS} x {BINS} "
                f"bins, which {name} has not; allowed: 0.0"
            )
    if isinstance(heads, RROIHeads) and heads.batched_nms is None:
        raise CannotMine(f"{name} has rotated boxes: list OHEMRROIHeads first among its bases")
    for part in predictor if is_cascade else [predictor]:
        if part is not None:
            check_predictor(part)


def _check_branch(heads: nn.Module) -> None:
    """To score as ``StandardROIHeads`` takes its parts. That it is right is proven later."""
    if type(heads).score_rois is not Scored.score_rois:
        return
    parts = [getattr(heads, part, None) for part in ("box_pooler", "box_head", "box_predictor")]
    usable = all(callable(part) and not isinstance(part, nn.ModuleList) for part in parts)
    if not usable or not hasattr(heads, "box_in_features"):
        raise CannotMine(
            f"{type(heads).__name__} has to say how it scores RoIs: list OHEMCascadeROIHeads or "
            "OHEMRes5ROIHeads first among its bases if it is a cascade or a C4 head, else "
            "override score_rois(self, features, proposals, stage=0) so that it predicts as "
            "its forward() does"
        )


def check_labelled(heads: nn.Module, rois: Any, num_labelled: int) -> None:
    """Raises CannotMine if what the parent's hook returned are not all RoIs with labels."""
    name = f"{type(heads).__name__} cannot mine: its label_and_sample_proposals()"
    if not isinstance(rois, list) or not all(isinstance(roi, Instances) for roi in rois):
        raise CannotMine(f"{name} does not return a list of Instances, one for each image")
    if rois and num_labelled == 0:
        raise CannotMine(
            f"{name} does not call _sample_proposals(), which is where OHEM takes all RoIs in "
            "the place of a random sample"
        )
    for field in ("proposal_boxes", "gt_classes"):
        if not all(roi.has(field) for roi in rois):
            raise CannotMine(f"{name} returns RoIs without {field}")


def describe(heads: nn.Module) -> str:
    """A line for the log."""
    settings, budget = heads.ohem, heads.batch_size_per_image
    share = "image" if settings.budget == "image" else "batch and image"
    nms = f"NMS by loss at IoU {settings.nms_thresh} ({settings.nms_scope})"
    nms = "no NMS" if settings.nms_scope == "none" else nms
    screening, warmup = settings.screening, settings.warmup_iters
    times = f" after screening at {screening} times as many" if screening > 0 else ""
    begin = f"the first {warmup} iterations sample at random, " if warmup > 0 else ""
    return (
        f"OHEM is active: {type(heads).__name__}, the {budget} hardest RoIs per {share}, {nms}, "
        f"{settings.implementation}{times}; {begin}POSITIVE_FRACTION is ignored"
        f"{' after them' if warmup > 0 else ''}"
    )
