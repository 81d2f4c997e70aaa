"""
OHEM for rotated boxes: what differs is their overlap. It needs Detectron2's compiled part.
"""

import functools
from typing import Any

import torch
from detectron2.layers import batched_nms_rotated
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, RROIHeads

from ..compat import has_compiled_ops
from ..mining.selection import nms_by_loss
from .standard import OHEMMixin


def _batched_nms(
    boxes: torch.Tensor, scores: torch.Tensor, group: torch.Tensor, nms_thresh: float
) -> torch.Tensor:
    """Of boxes (R, 5): center, width, height in absolute pixels, angle in degrees."""
    # Detectron2 moves the groups apart in float32: the fewer numbers, the less is rounded.
    group = torch.unique(group, return_inverse=True)[1]
    boxes = torch.nan_to_num(boxes, nan=0.0, posinf=0.0, neginf=0.0)
    return batched_nms_rotated(boxes, scores.to(boxes.dtype), group, nms_thresh)


@ROI_HEADS_REGISTRY.register()
class OHEMRROIHeads(OHEMMixin, RROIHeads):
    """
    ``RROIHeads`` with OHEM: RoIs are labelled, scored and suppressed as rotated boxes.

    SCREENING, BG_IOU_LOW, crowd regions and pictures of the mining (VIS_PERIOD) are for upright
    boxes only.
    """

    _nms_by_loss = staticmethod(functools.partial(nms_by_loss, batched_nms=_batched_nms))

    @classmethod
    def from_config(cls, cfg: Any, input_shape: Any) -> dict[str, Any]:
        return {**super().from_config(cfg, input_shape), "watcher": None}

    @staticmethod
    def _upright(boxes: Any) -> torch.Tensor:
        centers = boxes.get_centers()  # enough to put RoIs in an order
        return torch.cat([centers, centers], dim=1)

    def screened_branch(self) -> None:
        """None: the stand-in pools upright boxes."""

    def _check_head(self) -> None:
        if not has_compiled_ops():
            raise ImportError(
                f"{type(self).__name__} has rotated boxes, which take Detectron2's compiled part. "
                "Install it with pip install "
                "'git+https://github.com/facebookresearch/detectron2.git'"
            )
        if self.ohem.bg_iou_low > 0:
            raise ValueError(
                f"MODEL.ROI_HEADS.OHEM.BG_IOU_LOW = {self.ohem.bg_iou_low} is for upright boxes; "
                "allowed: 0.0"
            )
        super()._check_head()
