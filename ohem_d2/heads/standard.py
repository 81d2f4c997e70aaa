"""OHEM for Detectron2's heads with one stage."""

from typing import Any

import torch
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, Res5ROIHeads, StandardROIHeads
from detectron2.structures import Instances
from torch import nn

from .loss_layer import LossLayerMixin


@ROI_HEADS_REGISTRY.register()
class OHEMROIHeads(LossLayerMixin, StandardROIHeads):
    """``StandardROIHeads`` with OHEM: FPN, C5 and DC5 models; box, mask, keypoint branches."""

    # TorchScript leaves out the branches that are off. Detectron2 annotates the parent like this
    # when it exports, but annotations are not inherited.
    mask_on: torch.jit.Final[bool]
    keypoint_on: torch.jit.Final[bool]


@ROI_HEADS_REGISTRY.register()
class OHEMRes5ROIHeads(LossLayerMixin, Res5ROIHeads):
    """``Res5ROIHeads`` with OHEM: C4 models."""

    def score_rois(
        self, features: dict[str, torch.Tensor], proposals: list[Instances], stage: int = 0
    ) -> tuple[nn.Module, Any]:
        box_features = self._shared_roi_transform(
            [features[f] for f in self.in_features], [p.proposal_boxes for p in proposals]
        )
        return self.box_predictor, self.box_predictor(box_features.mean(dim=[2, 3]))
