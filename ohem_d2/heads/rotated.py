"""OHEM for rotated boxes: what differs is their overlap. It needs Detectron2's compiled part."""

from typing import Any

import torch
from detectron2.layers import batched_nms_rotated
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, RROIHeads

from ..compat import has_compiled_ops
from ..mining.record import MiningWatcher
from ..monitor.pictures import MiningPictures
from .loss_layer import LossLayerMixin


def batched_nms_of_rotated(
    boxes: torch.Tensor, scores: torch.Tensor, group: torch.Tensor, nms_thresh: float
) -> torch.Tensor:
    """Of boxes (R, 5): center, width, height in absolute pixels, angle in degrees."""
    # Detectron2 moves the groups apart in float32: the fewer numbers, the less is rounded.
    group = torch.unique(group, return_inverse=True)[1]
    boxes = torch.nan_to_num(boxes, nan=0.0, posinf=0.0, neginf=0.0)
    return batched_nms_rotated(boxes, scores.to(boxes.dtype), group, nms_thresh)


@ROI_HEADS_REGISTRY.register()
class OHEMRROIHeads(LossLayerMixin, RROIHeads):
    """
    ``RROIHeads`` with OHEM: RoIs are labelled, scored and suppressed as rotated boxes. SCREENING,
    BG_IOU_LOW, crowd regions and pictures of the mining (VIS_PERIOD) are for upright boxes only.
    """

    batched_nms = staticmethod(batched_nms_of_rotated)

    def __init__(self, *args: Any, watcher: MiningWatcher | None = None, **kwargs: Any):
        """Raises ImportError if Detectron2's compiled part does not load."""
        if not has_compiled_ops():
            raise ImportError(
                f"{type(self).__name__} has rotated boxes, which take Detectron2's compiled part. "
                "Install it with pip install "
                "'git+https://github.com/facebookresearch/detectron2.git'"
            )
        super().__init__(*args, **kwargs)
        # Pictures are of upright boxes.
        self.watcher = None if isinstance(watcher, MiningPictures) else watcher
        if self.ohem.bg_iou_low > 0:
            raise ValueError(
                f"MODEL.ROI_HEADS.OHEM.BG_IOU_LOW = {self.ohem.bg_iou_low} is for upright boxes; "
                "allowed: 0.0"
            )

    def screened_branch(self) -> None:
        """None: the stand-in pools upright boxes."""
