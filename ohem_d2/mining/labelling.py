"""
From RoIs with labels to candidates: which of them may be mined.

Shape shorthand: R RoIs of an image, K foreground classes; class K is background, -1 "ignore".
"""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks, pairwise_ioa
from detectron2.structures.boxes import matched_pairwise_iou

from ..config import OHEMSettings
from .selection import image_of_each, split_by_image


def classes_of(
    matched_idxs: torch.Tensor,
    matched_labels: torch.Tensor,
    gt_classes: torch.Tensor,
    num_classes: int,
) -> torch.Tensor:
    """
    Args:
        matched_idxs, matched_labels: int64 and int8 of shape (R,), of Detectron2's matcher: the
            object of each RoI, and whether it is foreground (1), background (0) or neither (-1).
        gt_classes: int64, of the objects.
        num_classes: K.

    Returns:
        int64 of shape (R,), the class of each RoI in [-1, K].
    """
    if len(gt_classes) == 0:
        return torch.full_like(matched_idxs, num_classes)
    classes = gt_classes[matched_idxs]
    classes = torch.where(matched_labels == 0, num_classes, classes)
    return torch.where(matched_labels == -1, -1, classes)


def most_objectlike(proposals: Instances, num: int) -> Instances:
    """
    The ``num`` proposals of an image with the highest objectness; 0: all. Raises ValueError if they
    have no ``objectness_logits``.
    """
    if not 0 < num < len(proposals):
        return proposals
    if not proposals.has("objectness_logits"):
        raise ValueError(
            f"MODEL.ROI_HEADS.OHEM.MAX_CANDIDATES = {num} keeps the proposals with the highest "
            "objectness_logits, which these have not; allowed: 0"
        )
    order = torch.sort(proposals.objectness_logits, descending=True, stable=True).indices
    return proposals[order[:num]]


def candidates(
    rois: Sequence[Instances],
    targets: Sequence[Instances],
    num_classes: int,
    settings: OHEMSettings,
) -> list[torch.Tensor]:
    """
    Args:
        rois: of each image, with ``proposal_boxes`` in absolute XYXY pixels, ``gt_classes`` in
            [-1, K], and ``gt_boxes`` where the image has objects.
        targets: the ground truth of each image.

    Returns:
        int64, the indices of the RoIs in each image that may be mined: all but those to be
        ignored, background in a crowd region, and background below BG_IOU_LOW in images with
        objects.
    """
    keep = []
    for roi, target in zip(rois, targets):
        excluded = inside_ignore_region(roi.proposal_boxes, target, settings.ignore_ioa_thresh)
        if settings.bg_iou_low > 0 and roi.has("gt_boxes"):
            iou = matched_pairwise_iou(roi.proposal_boxes, roi.gt_boxes)
            excluded |= iou < settings.bg_iou_low
        foreground = roi.gt_classes < num_classes
        keep.append((roi.gt_classes >= 0) & (foreground | ~excluded))
    sizes = [len(roi) for roi in rois]
    kept = torch.cat(keep)
    return split_by_image(torch.nonzero(kept).squeeze(1), image_of_each(sizes, kept.device), sizes)


def inside_ignore_region(boxes: Boxes, target: Instances, ioa_thresh: float) -> torch.Tensor:
    """
    bool of shape (R,): which of R boxes, in absolute XYXY pixels, lie by at least this share of
    their own area in one of the ``ignore_regions`` of the ground truth, if it has any.
    """
    if not target.has("ignore_regions") or len(target.ignore_regions.boxes) == 0:
        return torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    return pairwise_ioa(target.ignore_regions.boxes, boxes).amax(dim=0) >= ioa_thresh


def shallow_copy(instances: Instances) -> Instances:
    """With the same fields; others can be set on it."""
    return Instances(instances.image_size, **instances.get_fields())


class _Deferred:
    """
    Mixed into a class of masks: which masks are meant is remembered. When somebody looks at them
    they are copied, and this becomes the class itself.
    """

    def __getitem__(self, item: Any) -> Any:
        index = self._index[item]
        return _deferred(self._source, index if isinstance(item, torch.Tensor) else index.view(-1))

    def __len__(self) -> int:
        return len(self._index)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        copied = self.copied()
        self.__class__ = type(copied)
        vars(self).clear()
        vars(self).update(vars(copied))
        return getattr(self, name)

    def __reduce__(self) -> Any:
        return self.copied().__reduce_ex__(2)

    def copied(self) -> Any:
        return self._source[self._index]

    @staticmethod
    def cat(parts: Sequence[Any]) -> Any:
        parts = [part.copied() if isinstance(part, _Deferred) else part for part in parts]
        return type(parts[0]).cat(parts)


def _deferred(source: Any, index: torch.Tensor) -> Any:
    masks = object.__new__(type(type(source).__name__, (_Deferred, type(source)), {}))
    masks._source, masks._index = source, index
    return masks


def with_deferred_masks(targets: Sequence[Instances]) -> list[Instances]:
    """
    The ground truth, to label all RoIs of an image with: each gets the mask of its object, which
    for thousands of RoIs would be gigabytes. See :func:`with_copied_masks`.
    """
    light = [shallow_copy(target) for target in targets]
    for target in light:
        for name, value in target.get_fields().items():
            if isinstance(value, (BitMasks, PolygonMasks)):
                index = torch.arange(len(value), device=target.gt_classes.device)
                target.set(name, _deferred(value, index))
    return light


def with_copied_masks(rois: Instances) -> Instances:
    """The RoIs, a few now, with their masks in Detectron2's classes."""
    rois = shallow_copy(rois)
    for name, value in rois.get_fields().items():
        if isinstance(value, _Deferred):
            rois.set(name, value.copied())
    return rois
