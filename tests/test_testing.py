import copy

import others
import pytest
import torch
from detectron2.modeling.roi_heads import FastRCNNOutputLayers, StandardROIHeads
from models import ZOO, batch, config, detector, roi_inputs
from torch import nn

from ohem_d2 import OHEMMixin, per_roi_losses
from ohem_d2.mining.losses import fast_rcnn_losses, with_box_regression
from ohem_d2.testing import check_heads


def inputs_of(model, num_objects=(3, 4)):
    cfg = config("mask" if hasattr(model.roi_heads, "mask_head") else "fpn")
    if getattr(model.roi_heads, "keypoint_on", False):
        cfg = config("keypoint")
    return roi_inputs(model, batch(cfg, num_objects))


def snapshot(heads):
    state = {k: v.clone() for k, v in heads.state_dict().items()}
    modes, rng = [m.training for m in heads.modules()], torch.get_rng_state()
    return state, modes, rng, set(vars(heads)), [p.grad for p in heads.parameters()]


@pytest.mark.parametrize("settings", [{}, {"warmup_iters": 10}, {"nms_scope": "none"}])
@pytest.mark.parametrize("name", ZOO)
def test_heads_that_pass_are_afterwards_as_before(name, settings):
    model = detector(config(name, ohem=settings))
    inputs = inputs_of(model)
    before, ohem = snapshot(model.roi_heads), model.roi_heads.ohem
    check_heads(model.roi_heads, *inputs)
    after = snapshot(model.roi_heads)
    assert all(torch.equal(before[0][k], v) for k, v in after[0].items())
    assert before[1] == after[1] and torch.equal(before[2], after[2])
    assert before[3:] == after[3:] and model.roi_heads.ohem is ohem


def test_all_stages_of_a_cascade():
    model = detector(config("cascade", "MODEL.MASK_ON", False, ohem={"cascade_stages": "all"}))
    check_heads(model.roi_heads, *inputs_of(model))


@pytest.mark.parametrize("way", others.WAYS)
def test_every_way_to_rank_by_something_else_is_found(way):
    model = others.model_of(way)
    words = {
        "a weight outside": "RANK_LOC_WEIGHT 2 ranks as it trains",
        "weighted_boxes": "RANK_LOC_WEIGHT 4 ranks as it trains",
        "squared": "which is another loss",
    }.get(way, "has other derivatives than what RoIs are ranked by")
    name = type(model.roi_heads).__name__
    with pytest.raises(AssertionError, match=f"{name}: .*{words}") as error:
        check_heads(model.roi_heads, *inputs_of(model))
    # A weight is no remedy for losses that differ in more than that.
    assert ("RANK_LOC_WEIGHT" in str(error.value)) == ("RANK_LOC_WEIGHT" in words)


def with_box_head(*layers):
    model = detector(config())
    torch.manual_seed(0)
    model.roi_heads.box_head = nn.Sequential(nn.Flatten(), nn.Linear(16 * 49, 16), *layers)
    model.roi_heads.box_predictor.cls_score.weight.data.normal_()
    return model


class BatchMean(nn.Module):
    """A RoI's features depend on the others of its chunk."""

    def forward(self, x):
        return x - x.mean(dim=0)


class Logging(nn.Module):
    def forward(self, x):
        from detectron2.utils.events import get_event_storage

        get_event_storage().put_scalar("mean", x.mean().item())
        return x


def test_rois_that_depend_on_their_chunk_are_found():
    model = with_box_head(BatchMean())
    with pytest.raises(AssertionError, match="depend on which others are scored with it"):
        check_heads(model.roi_heads, *inputs_of(model))


class Leaving(OHEMMixin, StandardROIHeads):
    """Its scoring thaws a part that was frozen."""

    def score_rois(self, features, proposals):
        self.box_head.train()
        return super().score_rois(features, proposals)


def test_traces_are_found():
    model = detector(config())
    model.roi_heads.__class__ = Leaving
    model.roi_heads.box_head.eval()
    with pytest.raises(AssertionError, match="scoring leaves a trace in buffers or modes"):
        check_heads(model.roi_heads, *inputs_of(model))


@pytest.mark.parametrize(
    "layers",
    [
        (nn.Dropout(0.5),),
        (nn.BatchNorm1d(16),),
        (Logging(),),
        (nn.BatchNorm1d(16), nn.Dropout(0.1)),
    ],
    ids=["dropout", "batch norm", "logging", "both"],
)
def test_chance_and_batches_rest_and_the_log_is_kept_clean(layers):
    model = with_box_head(*layers)
    check_heads(model.roi_heads, *inputs_of(model))


class AnotherParent(StandardROIHeads):
    """It trains on what the sampler gives in another order, and on one RoI less of each image."""

    def forward(self, images, features, proposals, targets=None):
        proposals = [x[:-1] for x in self.label_and_sample_proposals(proposals, targets)]
        return proposals, self._forward_box(features, proposals)


def test_a_training_on_other_rois_than_the_mined_ones_is_found():
    model = detector(config())
    model.roi_heads.__class__ = type("OHEMAnother", (OHEMMixin, AnotherParent), {})
    with pytest.raises(AssertionError, match="OHEMAnother: "):
        check_heads(model.roi_heads, *inputs_of(model))


def test_there_has_to_be_something_to_compare():
    model = detector(config())
    with pytest.raises(RuntimeError, match="no foreground is mined"):
        check_heads(model.roi_heads, *inputs_of(model, (0, 0)))
    inputs = inputs_of(model)
    with torch.inference_mode(), pytest.raises(RuntimeError, match="outside of inference_mode"):
        check_heads(model.roi_heads, *inputs)
    with pytest.raises(RuntimeError, match="in training mode"):
        check_heads(model.roi_heads.eval(), *inputs)
    model.roi_heads.train()
    with torch.no_grad():  # it takes care of gradients itself
        check_heads(model.roi_heads, *inputs)


class WithoutTheSampler(StandardROIHeads):
    def forward(self, images, features, proposals, targets=None):
        proposals = StandardROIHeads.label_and_sample_proposals(self, proposals, targets)
        return proposals, self._forward_box(features, proposals)


def test_heads_that_mine_nothing_are_told_so():
    model = detector(config())
    model.roi_heads.__class__ = type("Idle", (OHEMMixin, WithoutTheSampler), {})
    with pytest.raises(RuntimeError, match=r"forward\(\) does not call label_and_sample_proposals"):
        check_heads(model.roi_heads, *inputs_of(model))


class ForABranch(FastRCNNOutputLayers):
    """Its losses take more than others', and ignore it."""

    def losses(self, predictions, proposals, branch):
        return super().losses(predictions[:2], proposals)

    def forward(self, x):
        return (*super().forward(x), x)


class Branched(StandardROIHeads):
    def _forward_box(self, features, proposals):
        maps = [features[f] for f in self.box_in_features]
        pooled = self.box_pooler(maps, [p.proposal_boxes for p in proposals])
        predictions = self.box_predictor(self.box_head(pooled))
        return self.box_predictor.losses(predictions, proposals, "supervised")


@per_roi_losses.register(ForABranch)
def _(predictor, predictions, proposals):
    return fast_rcnn_losses(predictor, predictions[:2], proposals)


def test_losses_that_take_more_arguments():
    model = detector(config())
    model.roi_heads.box_predictor.__class__ = ForABranch
    model.roi_heads.__class__ = type("OHEMBranched", (OHEMMixin, Branched), {})
    check_heads(model.roi_heads, *inputs_of(model))


@pytest.mark.parametrize("way", [None, "reweighted", "other classes"])
def test_a_frozen_classifier_is_compared_too(way):
    """As one of text embeddings: no parameter that trains has a part in its loss."""
    model = detector(config()) if way is None else others.model_of(way)
    heads = model.roi_heads
    for part in (heads.box_head, heads.box_predictor.cls_score):
        part.requires_grad_(False)
    if way is None:
        check_heads(heads, *inputs_of(model))
    else:
        with pytest.raises(AssertionError, match="loss_cls has other derivatives"):
            check_heads(heads, *inputs_of(model))
    trains = {name for name, p in heads.named_parameters() if p.requires_grad}
    assert trains == {"box_predictor.bbox_pred.weight", "box_predictor.bbox_pred.bias"}


class SquaredError(FastRCNNOutputLayers):
    """Somebody's: the squared distance of probabilities from the right answer."""

    def squares(self, scores, gt_classes):
        right = torch.nn.functional.one_hot(gt_classes, scores.shape[1])
        return (scores.softmax(dim=1) - right).square().sum(dim=1)

    def losses(self, predictions, proposals):
        losses = super().losses(predictions, proposals)
        gt_classes = torch.cat([x.gt_classes for x in proposals])
        return {**losses, "loss_cls": self.squares(predictions[0], gt_classes).mean()}


@per_roi_losses.register(SquaredError)
def _(predictor, predictions, proposals):
    gt_classes = torch.cat([x.gt_classes for x in proposals])
    squares = predictor.squares(predictions[0], gt_classes)
    return with_box_regression(predictor, squares * predictor.factor, predictions[1], proposals)


@pytest.mark.parametrize("factor, right", [(1.0, True), (2.0, False)])
def test_a_described_loss(factor, right):
    model = detector(config())
    predictor = copy.deepcopy(model.roi_heads.box_predictor)
    predictor.__class__, predictor.factor = SquaredError, factor
    model.roi_heads.box_predictor = predictor
    if right:
        check_heads(model.roi_heads, *inputs_of(model))
    else:
        with pytest.raises(AssertionError, match="RANK_LOC_WEIGHT 2 ranks as it trains"):
            check_heads(model.roi_heads, *inputs_of(model))
