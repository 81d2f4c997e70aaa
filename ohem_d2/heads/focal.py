"""
The focal loss (Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, Sec. 3) for the box
heads of an R-CNN: the other way to make hard examples count, alone or ranked by OHEM.

Shape shorthand: R RoIs over all images, K foreground classes; class K is background.
"""

import dataclasses
import math
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, FastRCNNOutputLayers, StandardROIHeads
from detectron2.structures import Instances
from fvcore.nn import sigmoid_focal_loss
from torch import nn
from torch.nn import functional as F

from ..config import Settings, choice, number
from ..mining.losses import per_roi_losses, weighted
from .loss_layer import LossLayerMixin


def softmax_focal_loss(
    scores: torch.Tensor, gt_classes: torch.Tensor, *, gamma: float, alpha: float = -1.0
) -> torch.Tensor:
    """
    -w (1 - p)^gamma log p, p being the softmax probability of the right class.

    Args:
        scores: logits of shape (R, K + 1).
        gt_classes: int64 of shape (R,), in [0, K].
        gamma: 0 for the cross entropy.
        alpha: w of foreground; w of background is 1 - alpha. -1: w is 1.

    Returns:
        Tensor of shape (R,).
    """
    log_p = -F.cross_entropy(scores, gt_classes, reduction="none")
    loss = -((1 - log_p.exp()).clamp(min=0) ** gamma) * log_p
    if alpha < 0:
        return loss
    return torch.where(gt_classes < scores.shape[1] - 1, alpha, 1 - alpha) * loss


@dataclasses.dataclass(frozen=True)
class FocalLoss(Settings):
    """The keys of ``MODEL.ROI_BOX_HEAD`` that are called as its fields."""

    NODE = "MODEL.ROI_BOX_HEAD"

    focal_loss_type: str = choice("softmax", "sigmoid")
    focal_loss_gamma: float = number(2.0, lambda v: 0 <= v < math.inf, "a number >= 0")
    focal_loss_alpha: float = number(-1.0, lambda v: v == -1 or 0 <= v <= 1, "-1.0, or from 0 to 1")


class FocalLossOutputLayers(FastRCNNOutputLayers):
    """
    ``FastRCNNOutputLayers`` that classify with the focal loss. It is the mean over all R RoIs, as
    the cross entropy there, of the sum over the classes with sigmoids.
    """

    @configurable
    def __init__(
        self,
        input_shape: Any,
        *,
        focal_loss_type: str = "softmax",
        focal_loss_gamma: float = 2.0,
        focal_loss_alpha: float = -1.0,
        **kwargs: Any,
    ):
        """
        See the parent, and :class:`FocalLoss`. Raises ValueError, which names the key, its value
        and what is allowed.
        """
        super().__init__(input_shape, **kwargs)
        self.focal = FocalLoss(focal_loss_type, focal_loss_gamma, focal_loss_alpha)
        if focal_loss_type == "sigmoid":
            # At first every class is improbable, so that the many easy RoIs do not drown the few
            # hard ones (Sec. 4.1).
            nn.init.constant_(self.cls_score.bias, -math.log((1 - 0.01) / 0.01))

    @classmethod
    def from_config(cls, cfg: Any, input_shape: Any) -> dict[str, Any]:
        names = [field.name for field in dataclasses.fields(FocalLoss)]
        keys = {name: cfg.MODEL.ROI_BOX_HEAD[name.upper()] for name in names}
        return {**super().from_config(cfg, input_shape), **keys}

    def focal_loss(self, scores: torch.Tensor, gt_classes: torch.Tensor) -> torch.Tensor:
        """
        The loss of each RoI, (R,). For the arguments see :func:`softmax_focal_loss`; sigmoids do
        not use the last column of the scores.
        """
        how = {"gamma": self.focal.focal_loss_gamma, "alpha": self.focal.focal_loss_alpha}
        if self.focal.focal_loss_type == "softmax":
            return softmax_focal_loss(scores, gt_classes, **how)
        target = F.one_hot(gt_classes, scores.shape[1])[:, :-1].to(scores.dtype)
        return sigmoid_focal_loss(scores[:, :-1], target, **how).sum(dim=1)

    def losses(
        self, predictions: tuple[torch.Tensor, torch.Tensor], proposals: list[Instances]
    ) -> dict[str, torch.Tensor]:
        """See the parent."""
        scores, _ = predictions
        gt_classes = torch.cat([p.gt_classes for p in proposals])
        loss_cls = self.focal_loss(scores, gt_classes).sum() / max(len(scores), 1)
        # The parent logs the accuracy, and computes the localization loss.
        losses = super().losses(predictions, proposals)
        return {**losses, "loss_cls": loss_cls * self.loss_weight.get("loss_cls", 1.0)}

    def predict_probs(
        self, predictions: tuple[torch.Tensor, torch.Tensor], proposals: list[Instances]
    ) -> tuple[torch.Tensor, ...]:
        """See the parent; with sigmoids background has what no class has."""
        if self.focal.focal_loss_type == "softmax":
            return super().predict_probs(predictions, proposals)
        return predictions[0].sigmoid().split([len(p) for p in proposals])


@per_roi_losses.register(FocalLossOutputLayers)
def _(box_predictor, predictions, proposals):
    scores, deltas = predictions
    gt_classes = torch.cat([p.gt_classes for p in proposals])
    loss_cls = box_predictor.focal_loss(scores, gt_classes)
    return weighted(box_predictor, loss_cls, deltas, proposals)


@ROI_HEADS_REGISTRY.register()
class FocalROIHeads(StandardROIHeads):
    """``StandardROIHeads`` that classify with the focal loss."""

    @classmethod
    def _init_box_head(cls, cfg: Any, input_shape: Any) -> dict[str, Any]:
        ret = super()._init_box_head(cfg, input_shape)
        ret["box_predictor"] = FocalLossOutputLayers(cfg, ret["box_head"].output_shape)
        return ret


@ROI_HEADS_REGISTRY.register()
class OHEMFocalROIHeads(LossLayerMixin, FocalROIHeads):
    """``FocalROIHeads`` with OHEM: RoIs are ranked by their focal loss."""
