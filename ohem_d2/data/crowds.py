"""
Crowd regions: areas full of objects that nobody outlined one by one.

Detectron2's mapper drops them. To random sampling that hardly matters, but the many unlabelled
objects in a crowd are the hardest "background" of all, and OHEM would mine little else there.
"""

from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetMapper
from detectron2.structures import Boxes, BoxMode

from ..errors import naming
from .checks import must_be_file


class IgnoreRegions:
    """
    The regions of one image, in a form that travels as a field of its ``Instances``.

    A field must have as many elements as there are instances and be indexed along with them,
    while an image has any number of regions. So this acts as a sequence of the right length that
    keeps all regions, whatever part of the instances is taken, even none.
    """

    def __init__(self, boxes: Boxes, num_instances: int):
        """The regions, absolute XYXY pixels, as a field of ``Instances`` of that length."""
        self.boxes = boxes
        self._places = torch.arange(num_instances)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, item: int | slice | torch.Tensor) -> "IgnoreRegions":
        """Of a part of the instances, with all regions."""
        item = item.cpu() if isinstance(item, torch.Tensor) else item
        return IgnoreRegions(self.boxes, self._places[item].numel())

    @staticmethod
    def cat(parts: "list[IgnoreRegions]") -> "IgnoreRegions":
        """For ``Instances.cat``, as when images are pasted together."""
        return IgnoreRegions(Boxes.cat([p.boxes for p in parts]), sum(len(p) for p in parts))

    def to(self, *args: Any, **kwargs: Any) -> "IgnoreRegions":
        """On another device; arguments as of a tensor's ``to``."""
        return IgnoreRegions(self.boxes.to(*args, **kwargs), len(self))


class CrowdDatasetMapper(DatasetMapper):
    """
    Detectron2's mapper, which drops annotations with ``iscrowd: 1``, and in addition keeps their
    boxes, transformed like the image, in the field ``ignore_regions`` of the instances. Annotations
    whose boxes are not finite are dropped as well. Images without objects are taken as they are.
    Errors name the image.

    Give it to the loader::

        build_detection_train_loader(cfg, mapper=CrowdDatasetMapper(cfg, is_train=True))
    """

    def __call__(self, dataset_dict: dict) -> dict:
        """See the parent. Raises InputError if the image or its annotations cannot be read."""
        name = str(dataset_dict["file_name"])
        with naming():
            if "://" not in name:
                must_be_file(name, "an image")
        with naming(name, (TypeError, IndexError)):
            return super().__call__(dataset_dict)

    def _transform_annotations(self, dataset_dict, transforms, image_shape) -> None:
        # Detectron2 would take infinity for the edge of the image.
        finite = [a for a in dataset_dict["annotations"] if np.isfinite(a["bbox"]).all()]
        dataset_dict["annotations"] = finite
        crowds = [a for a in finite if a.get("iscrowd", 0) != 0]
        recompute_boxes = self.recompute_boxes
        self.recompute_boxes &= len(finite) > len(crowds)  # without masks Detectron2's would fail
        try:
            super()._transform_annotations(dataset_dict, transforms, image_shape)
        finally:
            self.recompute_boxes = recompute_boxes
        boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in crowds]
        boxes = transforms.apply_box(np.array(boxes).reshape(-1, 4))
        boxes = Boxes(torch.as_tensor(boxes, dtype=torch.float32))
        boxes.clip(image_shape)
        instances = dataset_dict["instances"]
        instances.ignore_regions = IgnoreRegions(boxes[boxes.nonempty()], len(instances))
