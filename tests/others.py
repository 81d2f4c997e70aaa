"""
Other people's heads and losses that OHEM would rank by something else than they train on, each in
another way.
"""

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import (
    CascadeROIHeads,
    FastRCNNOutputLayers,
    Res5ROIHeads,
    StandardROIHeads,
)
from models import config, detector
from torch.nn import functional as F

from ohem_d2 import OHEMCascadeROIHeads, OHEMMixin, OHEMRes5ROIHeads, OHEMROIHeads


class Scaled(StandardROIHeads):
    """It does to the features what the plain branch does not."""

    def _forward_box(self, features, proposals):
        return super()._forward_box({k: 2 * v for k, v in features.items()}, proposals)


class MaxPooled(Res5ROIHeads):
    def forward(self, images, features, proposals, targets=None):
        proposals = self.label_and_sample_proposals(proposals, targets)
        maps = [features[f] for f in self.in_features]
        pooled = self._shared_roi_transform(maps, [p.proposal_boxes for p in proposals])
        predictions = self.box_predictor(pooled.amax(dim=[2, 3]))
        return [], self.box_predictor.losses(predictions, proposals)


class Sharpened(CascadeROIHeads):
    """Only while its box branch runs, and so not in the sampler hook."""

    inside = False

    def _run_stage(self, features, proposals, stage):
        scores, deltas = super()._run_stage(features, proposals, stage)
        return (scores * 3 if self.inside else scores), deltas

    def _forward_box(self, features, proposals, targets=None):
        self.inside = True
        try:
            return super()._forward_box(features, proposals, targets)
        finally:
            self.inside = False


class NoisyMasks(Scaled):
    """Another loss draws at random, which is no excuse."""

    def forward(self, images, features, proposals, targets=None):
        proposals, losses = super().forward(images, features, proposals, targets)
        return proposals, {**losses, "loss_noise": torch.rand(()) * sum(losses.values())}


class Doubled(StandardROIHeads):
    """It weights a loss itself."""

    def _forward_box(self, features, proposals):
        losses = super()._forward_box(features, proposals)
        return {**losses, "loss_box_reg": 2 * losses["loss_box_reg"]}


class Swapped(StandardROIHeads):
    """Its losses have each other's names."""

    def _forward_box(self, features, proposals):
        losses = super()._forward_box(features, proposals)
        return {"loss_cls": losses["loss_box_reg"], "loss_box_reg": losses["loss_cls"]}


class OtherClasses(FastRCNNOutputLayers):
    """Open vocabulary: in evaluation mode there are more classes."""

    def forward(self, x):
        scores, deltas = super().forward(x)
        return (scores if self.training else F.pad(scores, (0, 5), value=2.0)), deltas


class Softmaxed(FastRCNNOutputLayers):
    """In evaluation mode it gives probabilities."""

    def forward(self, x):
        scores, deltas = super().forward(x)
        return (scores if self.training else scores.softmax(dim=1)), deltas


def reweighted(losses, predictions, proposals):
    """Foreground counts four times as much, normalized."""
    classes = torch.cat([p.gt_classes for p in proposals])
    weights = torch.where(classes < 80, 4.0, 1.0)
    loss = F.cross_entropy(predictions[0], classes, reduction="none")
    return {**losses, "loss_cls": (weights * loss).sum() / weights.sum()}


def smoothed(losses, predictions, proposals):
    classes = torch.cat([p.gt_classes for p in proposals])
    return {**losses, "loss_cls": F.cross_entropy(predictions[0], classes, label_smoothing=0.3)}


def at_random(losses, predictions, proposals):
    """As a federated loss: of classes that are drawn in each call."""
    classes = torch.cat([p.gt_classes for p in proposals])
    drawn = torch.rand(81) > 0.5
    drawn[classes] = True
    return {
        **losses,
        "loss_cls": F.cross_entropy(predictions[0].masked_fill(~drawn, -1e4), classes),
    }


def weighted_boxes(losses, predictions, proposals):
    return {**losses, "loss_box_reg": 4 * losses["loss_box_reg"]}


def squared(losses, predictions, proposals):
    return {**losses, "loss_cls": losses["loss_cls"] ** 2}


HEADS = {
    "scaled features": (Scaled, OHEMMixin, "fpn"),
    "other pooling": (MaxPooled, OHEMRes5ROIHeads, "c4"),
    "sharpened cascade": (Sharpened, OHEMCascadeROIHeads, "cascade"),
    "chance elsewhere": (NoisyMasks, OHEMMixin, "fpn"),
    "a weight outside": (Doubled, OHEMMixin, "fpn"),
    "swapped names": (Swapped, OHEMMixin, "fpn"),
}
PREDICTORS = {"other classes": OtherClasses, "probabilities": Softmaxed}
PATCHES = [reweighted, smoothed, at_random, weighted_boxes, squared]
WAYS = [*HEADS, *PREDICTORS, *(patch.__name__ for patch in PATCHES)]


def model_of(way, ohem=None):
    """A detector whose heads would be ranked by something else in this way; and its name."""
    heads, base, zoo = HEADS.get(way, (None, None, "fpn"))
    model = detector(config(zoo, "MODEL.MASK_ON", False, ohem=ohem))
    if heads is not None:
        model.roi_heads.__class__ = type("OHEM" + heads.__name__, (base, heads), {})
    elif way in PREDICTORS:
        torch.manual_seed(0)
        model.roi_heads.box_predictor = PREDICTORS[way](config(), ShapeSpec(channels=16))
    else:
        (patch,) = (patch for patch in PATCHES if patch.__name__ == way)
        predictor = model.roi_heads.box_predictor
        losses = predictor.losses
        predictor.losses = lambda predictions, proposals: patch(
            losses(predictions, proposals), predictions, proposals
        )
    assert isinstance(model.roi_heads, OHEMMixin) and OHEMROIHeads
    return model
