"""
Which RoIs may be mined: all except RoIs labelled "ignore" and background in crowd regions. Crowd
regions are full of objects without boxes of their own, which would be the hardest "background".
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetMapper
from detectron2.structures import Boxes, BoxMode, Instances, pairwise_ioa
from torch import Tensor

from .selection import image_of_each, split_by_image


def without_masks(target: Instances, kinds: tuple[type, ...]) -> Instances:
    """
    The objects of an image without fields of these types. Detectron2 copies every ``gt_`` field to
    each RoI, which takes gigabytes for masks. ``gt_index`` tells which object a RoI belongs to.
    """
    fields = {k: v for k, v in target.get_fields().items() if not isinstance(v, kinds)}
    index = torch.arange(len(target), device=target.gt_classes.device)
    return Instances(target.image_size, **fields, gt_index=index)


def with_masks(rois: Instances, target: Instances, kinds: tuple[type, ...]) -> Instances:
    """The mined RoIs, with the fields put back that :func:`without_masks` left out."""
    if rois.has("gt_index"):  # missing if the image has no objects: the parent copies nothing
        for name, value in target.get_fields().items():
            if isinstance(value, kinds):
                rois.set(name, value[rois.gt_index])
        rois.remove("gt_index")
    return rois


def labels_of_all(
    matched_idxs: Tensor, matched_labels: Tensor, gt_classes: Tensor, num_classes: int
) -> Tensor:
    """
    The class of each RoI of an image, int64 of shape (R,): K is background, -1 is "ignore".
    Detectron2's matcher gives the object of each RoI, (R,), and labels 1, 0 or -1, (R,).
    """
    if len(gt_classes) == 0:
        return torch.full_like(matched_idxs, num_classes)
    classes = torch.where(matched_labels == 0, num_classes, gt_classes[matched_idxs])
    return torch.where(matched_labels == -1, -1, classes)


def candidates(
    rois: Sequence[Instances], targets: Sequence[Instances], num_classes: int, ioa_thresh: float
) -> list[Tensor]:
    """
    For each image, the int64 indices of its RoIs that may be mined. Left out are RoIs labelled
    "ignore", and background with a share >= ``ioa_thresh`` of its area in an ignore region.
    """
    keep = []
    for roi, target in zip(rois, targets):
        may_be_mined = roi.gt_classes >= 0
        if target.has("ignore_regions") and len(target.ignore_regions.boxes) > 0:
            share = pairwise_ioa(target.ignore_regions.boxes, roi.proposal_boxes).amax(dim=0)
            may_be_mined &= (roi.gt_classes < num_classes) | (share < ioa_thresh)
        keep.append(may_be_mined)
    kept, sizes = torch.cat(keep), list(map(len, rois))
    return split_by_image(torch.nonzero(kept).squeeze(1), image_of_each(sizes, kept.device), sizes)


class IgnoreRegions:
    """
    The crowd regions of one image, in absolute XYXY pixels, as a field of its ``Instances``. Its
    length is the number of instances, and every part of it keeps all regions.
    """

    def __init__(self, boxes: Boxes, num_instances: int):
        self.boxes, self._places = boxes, torch.arange(num_instances)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, item: int | slice | Tensor) -> "IgnoreRegions":
        item = item.cpu() if isinstance(item, Tensor) else item
        return IgnoreRegions(self.boxes, self._places[item].numel())

    @staticmethod
    def cat(parts: "list[IgnoreRegions]") -> "IgnoreRegions":
        """For ``Instances.cat``, for example when images are pasted together."""
        return IgnoreRegions(Boxes.cat([p.boxes for p in parts]), sum(map(len, parts)))

    def to(self, *args: Any, **kwargs: Any) -> "IgnoreRegions":
        return IgnoreRegions(self.boxes.to(*args, **kwargs), len(self))


class CrowdDatasetMapper(DatasetMapper):
    """
    Detectron2's mapper drops annotations with ``iscrowd: 1``. This one keeps their boxes,
    transformed like the image, as ``ignore_regions`` of the instances. Coordinates become floats.
    """

    def _transform_annotations(self, dataset_dict, transforms, image_shape) -> None:
        annotations, recompute_boxes = dataset_dict["annotations"], self.recompute_boxes
        for a in annotations:  # Detectron2 would truncate resized integers.
            a["bbox"] = list(map(float, a["bbox"]))
            if isinstance(a.get("segmentation"), list):
                a["segmentation"] = [np.array(p, dtype=float) for p in a["segmentation"]]
        crowds = [a for a in annotations if a.get("iscrowd", 0) != 0]
        self.recompute_boxes &= len(annotations) > len(crowds)  # it would fail without masks
        try:
            super()._transform_annotations(dataset_dict, transforms, image_shape)
        finally:
            self.recompute_boxes = recompute_boxes
        boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in crowds]
        boxes = transforms.apply_box(np.array(boxes).reshape(-1, 4))
        boxes, instances = Boxes(torch.as_tensor(boxes).float()), dataset_dict["instances"]
        boxes.clip(image_shape)
        instances.ignore_regions = IgnoreRegions(boxes[boxes.nonempty()], len(instances))
