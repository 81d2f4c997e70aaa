"""An image at several sizes, and the way back for boxes that are found in it."""

from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.structures import Boxes, Instances

from ..settings import MultiScale

Size = tuple[int, int]  # height, width


class View(NamedTuple):
    """An image of size ``base``, resized to ``size``."""

    base: Size
    size: Size

    def of_record(self, record: dict[str, Any]) -> dict[str, Any]:
        """The record with its image and proposals in this view; the input is not changed."""
        if self.size == self.base:
            return record
        resize = T.ResizeTransform(*self.base, *self.size)
        image = np.ascontiguousarray(record["image"].permute(1, 2, 0).cpu().numpy())
        image = resize.apply_image(image).transpose(2, 0, 1)
        record = {**record, "image": torch.as_tensor(np.ascontiguousarray(image))}
        if "proposals" in record:
            fields = dict(record["proposals"].get_fields())
            boxes = fields["proposal_boxes"].tensor
            fields["proposal_boxes"] = Boxes(_apply(resize, boxes))
            record["proposals"] = Instances(self.size, **fields)
        return record

    def undo(self, boxes: torch.Tensor) -> torch.Tensor:
        """From the coordinates of this view to those of the image: (M, 4), XYXY in pixels."""
        if self.size == self.base:
            return boxes
        return _apply(T.ResizeTransform(*self.size, *self.base), boxes)


def views(size: Size, settings: MultiScale) -> list[View]:
    """The views of an image of this size, each once; the image as it is if not enabled."""
    # Not by calling the resizing, which would draw from the global random state.
    shape, cap = T.ResizeShortestEdge.get_output_shape, settings.max_size
    sizes = [shape(*size, short, cap) for short in settings.min_sizes] if settings.enabled else []
    return [View(size, s) for s in dict.fromkeys(sizes or [size])]


def _apply(transform: T.Transform, boxes: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(transform.apply_box(boxes.cpu().numpy()), device=boxes.device)
