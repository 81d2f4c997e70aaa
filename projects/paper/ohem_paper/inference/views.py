"""An image at several sizes, mirrored or not, and the way back for boxes that are found in it."""

from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.structures import Boxes, Instances

from ..settings import MultiScale

Size = tuple[int, int]  # height, width


class View(NamedTuple):
    """An image of size ``base``, resized to ``size``, then mirrored or not."""

    base: Size
    size: Size
    flip: bool

    def of_record(self, record: dict[str, Any]) -> dict[str, Any]:
        """The record with its image and proposals in this view; the input is not changed."""
        transforms = self._transforms()
        if not transforms.transforms:
            return record
        image = np.ascontiguousarray(record["image"].permute(1, 2, 0).cpu().numpy())
        image = transforms.apply_image(image).transpose(2, 0, 1)
        record = {**record, "image": torch.as_tensor(np.ascontiguousarray(image))}
        if "proposals" in record:
            fields = dict(record["proposals"].get_fields())
            boxes = fields["proposal_boxes"].tensor
            fields["proposal_boxes"] = Boxes(_apply(transforms, boxes))
            record["proposals"] = Instances(self.size, **fields)
        return record

    def undo(self, boxes: torch.Tensor) -> torch.Tensor:
        """From the coordinates of this view to those of the image: (M, 4), XYXY in pixels."""
        return _apply(self._transforms().inverse(), boxes)

    def _transforms(self) -> T.TransformList:
        resize = [T.ResizeTransform(*self.base, *self.size)] if self.size != self.base else []
        return T.TransformList([*resize, *([T.HFlipTransform(self.size[1])] if self.flip else [])])


def views(size: Size, settings: MultiScale) -> list[View]:
    """The views of an image of this size, each once; the image as it is if not enabled."""
    if not settings.enabled:
        return [View(size, size, False)]
    sizes = [
        # Not by calling it, which would draw from the global random state.
        T.ResizeShortestEdge.get_output_shape(*size, short, settings.max_size)
        for short in settings.min_sizes
    ]
    flips = (False, True) if settings.flip else (False,)
    return list(dict.fromkeys(View(size, s, f) for s in sizes or [size] for f in flips))


def _apply(transforms: T.TransformList, boxes: torch.Tensor) -> torch.Tensor:
    if not transforms.transforms:
        return boxes
    return torch.as_tensor(transforms.apply_box(boxes.cpu().numpy()), device=boxes.device)
