"""ROI heads that classify with the focal loss, alone or ranked by OHEM."""

import math
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, FastRCNNOutputLayers, StandardROIHeads
from detectron2.structures import Instances
from torch import Tensor, nn
from torch.nn import functional as F

from ohem_d2 import OHEMMixin, per_roi_losses
from ohem_d2.mining.losses import with_box_regression

from .losses import sigmoid_focal_loss, softmax_focal_loss

DEFAULTS = {
    # "softmax", or "sigmoid": each class against all others
    "FOCAL_LOSS_TYPE": "softmax",
    # By how much easy RoIs count less. 0: the cross entropy
    "FOCAL_LOSS_GAMMA": 2.0,
    # The weight of foreground, from 0 to 1, that of background being the rest. -1.0: both have 1
    "FOCAL_LOSS_ALPHA": -1.0,
}


def add_focal_config(cfg: CfgNode) -> None:
    """Add the keys ``MODEL.ROI_BOX_HEAD.FOCAL_LOSS_...`` with their defaults; set ones stay."""
    for name, value in DEFAULTS.items():
        cfg.MODEL.ROI_BOX_HEAD.setdefault(name, value)


class FocalLossOutputLayers(FastRCNNOutputLayers):
    """
    ``FastRCNNOutputLayers`` that classify with the focal loss. Like the cross entropy there, it is
    the mean over all R RoIs. With sigmoids, it is summed over the classes.
    """

    @configurable
    def __init__(
        self,
        input_shape: Any,
        *,
        kind: str = "softmax",
        gamma: float = 2.0,
        alpha: float = -1.0,
        **kwargs: Any,
    ):
        """The parent's arguments, and the keys; ValueError for impossible values."""
        super().__init__(input_shape, **kwargs)
        for name, value, holds, allowed in (
            ("TYPE", kind, kind in ("softmax", "sigmoid"), "softmax or sigmoid"),
            ("GAMMA", gamma, 0 <= gamma < math.inf, "a number >= 0"),
            ("ALPHA", alpha, alpha == -1 or 0 <= alpha <= 1, "-1.0, or from 0 to 1"),
        ):
            if not holds:
                key = f"MODEL.ROI_BOX_HEAD.FOCAL_LOSS_{name}"
                raise ValueError(f"{key} = {value!r}; allowed: {allowed}")
        self.uses_sigmoid, self.gamma, self.alpha = kind == "sigmoid", gamma, alpha
        if self.uses_sigmoid:
            # At first every class is improbable, so that the many easy RoIs do not drown the few
            # hard ones (Sec. 4.1).
            nn.init.constant_(self.cls_score.bias, -math.log((1 - 0.01) / 0.01))

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Any) -> dict[str, Any]:
        box = cfg.MODEL.ROI_BOX_HEAD
        keys = (box.get(name, default) for name, default in DEFAULTS.items())
        keys = dict(zip(("kind", "gamma", "alpha"), keys))
        return {**super().from_config(cfg, input_shape), **keys}

    def focal_loss(self, scores: Tensor, gt_classes: Tensor) -> Tensor:
        """The loss of each RoI, (R,); ``scores`` are (R, K + 1), of which sigmoids read only K."""
        how = {"gamma": self.gamma, "alpha": self.alpha}
        if not self.uses_sigmoid:
            return softmax_focal_loss(scores, gt_classes, **how)
        targets = F.one_hot(gt_classes, scores.shape[1])[:, :-1].bool()
        return sigmoid_focal_loss(scores[:, :-1], targets, **how).sum(dim=1)

    def losses(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> dict[str, Tensor]:
        """See the parent, which logs the accuracy and computes the localization loss."""
        gt_classes = torch.cat([p.gt_classes for p in proposals])
        loss_cls = self.focal_loss(predictions[0], gt_classes).sum() / max(len(gt_classes), 1)
        losses = super().losses(predictions, proposals)
        return {**losses, "loss_cls": loss_cls * self.loss_weight.get("loss_cls", 1.0)}

    def predict_probs(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> tuple[Tensor, ...]:
        """See the parent. The last column of sigmoids, background, is never read."""
        if not self.uses_sigmoid:
            return super().predict_probs(predictions, proposals)
        return predictions[0].sigmoid().split(list(map(len, proposals)))


@per_roi_losses.register(FocalLossOutputLayers)
def focal_losses(predictor, predictions, proposals):
    """What OHEM ranks by: the focal loss of each RoI, and its localization loss."""
    scores, deltas = predictions
    loss_cls = predictor.focal_loss(scores, torch.cat([p.gt_classes for p in proposals]))
    return with_box_regression(predictor, loss_cls, deltas, proposals)


@ROI_HEADS_REGISTRY.register()
class FocalROIHeads(StandardROIHeads):
    """``StandardROIHeads`` that classify with the focal loss."""

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: Any) -> dict[str, Any]:
        ret = super()._init_box_head(cfg, input_shape)
        ret["box_predictor"] = FocalLossOutputLayers(cfg, ret["box_head"].output_shape)
        return ret


@ROI_HEADS_REGISTRY.register()
class OHEMFocalROIHeads(OHEMMixin, FocalROIHeads):
    """``FocalROIHeads`` with OHEM: RoIs are ranked by their focal loss."""
