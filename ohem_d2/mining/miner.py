"""
Online hard example mining (paper Sec. 4): of all RoIs to the hard ones that are trained on.

Candidates, their losses in a read-only pass, the ranking, NMS by loss, the budget: in this order.
"""

from collections.abc import Sequence

import torch
from detectron2.structures import Instances
from torch.profiler import record_function

from ..config import OHEMSettings
from . import labelling, selection
from .record import Record
from .scoring import Scorer


def mine(
    scorer: Scorer,
    rois: Sequence[Instances],
    targets: Sequence[Instances],
    settings: OHEMSettings,
    *,
    num_samples: int,
    num_classes: int,
    batched_nms: selection.BatchedNMS | None = None,
) -> Record:
    """
    Args:
        scorer: how the ROI heads score RoIs.
        rois: all RoIs of each image, labelled: ``proposal_boxes`` and ``gt_boxes`` in absolute
            XYXY pixels, ``gt_classes`` in [-1, K].
        targets: the ground truth of each image.
        num_samples: B/N of the paper, the budget of an image.
        num_classes: K, the class of background.
        batched_nms: NMS of other boxes, see :func:`ohem_d2.mining.selection.nms_by_loss`.
    """
    kept = labelling.candidates(rois, targets, num_classes, settings)
    rois = [roi[index] for roi, index in zip(rois, kept)]
    if settings.screening > 0:
        with record_function("ohem/screen"):
            promising = rank(scorer.coarse_losses(rois), settings).split([len(r) for r in rois])
            most = round(settings.screening * num_samples)
            rois = [r[selection.order_by_loss(part)[:most]] for r, part in zip(rois, promising)]
    return select(
        rois,
        scorer.losses(rois),
        settings,
        num_samples=num_samples,
        num_classes=num_classes,
        batched_nms=batched_nms,
    )


def rank(losses: dict[str, torch.Tensor], settings: OHEMSettings) -> torch.Tensor:
    """
    The loss (R,) that RoIs are ranked by: classification plus localization (paper Sec. 4.1), each
    with its weight. A weight of 0 leaves a loss out even if it is NaN.
    """
    weights = {
        "loss_cls": settings.rank_cls_weight,
        "loss_box_reg": settings.rank_loc_weight,
    }
    return sum(weight * losses[name] for name, weight in weights.items() if weight > 0)


def select(
    rois: Sequence[Instances],
    losses: dict[str, torch.Tensor],
    settings: OHEMSettings,
    *,
    num_samples: int,
    num_classes: int,
    batched_nms: selection.BatchedNMS | None = None,
) -> Record:
    """The second half of :func:`mine`, for candidates whose losses (R,) are known."""
    sizes = [len(roi) for roi in rois]
    boxes = torch.cat([roi.proposal_boxes.tensor for roi in rois])
    gt_classes = torch.cat([roi.gt_classes for roi in rois])
    image_index = selection.image_of_each(sizes, boxes.device)
    ranking = rank(losses, settings)
    survivors, chosen = selection.hardest(
        ranking,
        boxes,
        gt_classes,
        image_index,
        num_samples=num_samples,
        num_images=len(rois),
        num_classes=num_classes,
        nms_thresh=settings.nms_thresh,
        nms_scope=settings.nms_scope,
        budget=settings.budget,
        max_fg_fraction=settings.max_fg_fraction,
        batched_nms=batched_nms,
    )
    hard = selection.split_by_image(chosen, image_index, sizes)
    is_foreground = gt_classes < num_classes
    return Record(list(rois), image_index, is_foreground, losses, ranking, survivors, chosen, hard)
