"""
Other people's heads. Each stand-in has the shape of the heads of some public project, reduced to
what makes it hard to mine for: it works as it is, or says in a sentence what to add.
"""

import copy
import logging

import pytest
import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import (
    CascadeROIHeads,
    FastRCNNOutputLayers,
    Res5ROIHeads,
    StandardROIHeads,
)
from detectron2.structures import Boxes, pairwise_iou
from detectron2.utils.events import EventStorage
from models import batch, config, detector, roi_inputs
from steps import assert_trains_on_the_mined_batch, logged, pair_of, train_heads
from torch import nn
from torch.nn import functional as F

from ohem_d2 import (
    OHEMCascadeROIHeads,
    OHEMMixin,
    OHEMRes5ROIHeads,
    OHEMROIHeads,
    OHEMSettings,
    per_roi_losses,
)
from ohem_d2.mining.losses import check_predictor, weighted


def registered(heads, *bases, **attributes):
    """The heads and their OHEM counterpart, by the name of the latter."""
    for cls in (heads, type(f"OHEM{heads.__name__}", (*bases, heads), attributes)):
        if cls.__name__ in ROI_HEADS_REGISTRY:
            continue
        ROI_HEADS_REGISTRY.register(cls)
    return f"OHEM{heads.__name__}"


def door(heads, *bases, zoo="fpn", ohem=None, overrides=(), **attributes):
    """A detector with the mined heads, the plain one of the same weights, and inputs."""
    name = registered(heads, *(bases or (OHEMMixin,)), **attributes)
    cfg = config(zoo, "MODEL.ROI_HEADS.NAME", name, *overrides, ohem=ohem)
    ours, plain = pair_of(cfg, heads.__name__)
    return ours, plain, batch(cfg)


@pytest.fixture
def warnings(monkeypatch):
    messages = []
    monkeypatch.setattr(logging.getLogger("detectron2.ohem_d2"), "warning", messages.append)
    return messages


# ---- samplers of other names --------------------------------------------------------------------


class PseudoLabelled(StandardROIHeads):
    def forward(self, images, features, proposals, targets=None):
        proposals = self.label_and_sample_proposals_pseudo(proposals, targets)
        return proposals, self._forward_box(features, proposals)

    def label_and_sample_proposals_pseudo(self, proposals, targets):
        return StandardROIHeads.label_and_sample_proposals(self, proposals, targets)


def test_a_sampler_of_another_name_is_warned_of_once(warnings):
    ours, _, inputs = door(PseudoLabelled)
    for _ in range(2):
        with EventStorage() as storage:
            _, losses = ours.roi_heads(*roi_inputs(ours, inputs))
        assert losses and not any("ohem" in name for name in storage.latest())
    (message,) = warnings
    assert "OHEMPseudoLabelled" in message and "label_and_sample_proposals()" in message


def test_no_warning_without_targets_or_in_a_warm_up(warnings):
    ours, _, inputs = door(PseudoLabelled)
    images, features, proposals, targets = roi_inputs(ours, inputs)
    model = detector(config(ohem={"warmup_iters": 10}))
    with EventStorage():
        model.roi_heads(*roi_inputs(model, inputs))
    assert warnings == []


# ---- box branches -------------------------------------------------------------------------------


class OwnForwardBox(StandardROIHeads):
    """On the standard ones, and it predicts through their parts."""

    def _forward_box(self, features, proposals):
        maps = [features[f] for f in self.box_in_features]
        pooled = self.box_pooler(maps, [p.proposal_boxes for p in proposals])
        predictions = self.box_predictor(self.box_head(pooled))
        if self.training:
            return self.box_predictor.losses(predictions, proposals)
        return self.box_predictor.inference(predictions, proposals)[0]


def test_a_branch_of_its_own_that_predicts_alike():
    assert_trains_on_the_mined_batch(*door(OwnForwardBox))


class Scaled(StandardROIHeads):
    """It does to the features what the plain branch does not."""

    def _forward_box(self, features, proposals):
        return super()._forward_box({k: 2 * v for k, v in features.items()}, proposals)


class MaxPooled(Res5ROIHeads):
    def forward(self, images, features, proposals, targets=None):
        if self.training:
            proposals = self.label_and_sample_proposals(proposals, targets)
        maps = [features[f] for f in self.in_features]
        pooled = self._shared_roi_transform(maps, [p.proposal_boxes for p in proposals])
        predictions = self.box_predictor(pooled.amax(dim=[2, 3]))
        if self.training:
            return [], self.box_predictor.losses(predictions, proposals)
        return self.box_predictor.inference(predictions, proposals)[0], {}


class Detuned(CascadeROIHeads):
    def _run_stage(self, features, proposals, stage):
        scores, deltas = super()._run_stage(features, proposals, stage)
        return (scores * 3 if torch.is_grad_enabled() or self._boost else scores), deltas

    def _forward_box(self, features, proposals, targets=None):
        self._boost = True
        try:
            return super()._forward_box(features, proposals, targets)
        finally:
            self._boost = False

    _boost = False


def score_scaled(self, features, proposals, stage=0):
    return OHEMMixin.score_rois(self, {k: 2 * v for k, v in features.items()}, proposals)


def score_by_max(self, features, proposals, stage=0):
    maps = [features[f] for f in self.in_features]
    pooled = self._shared_roi_transform(maps, [p.proposal_boxes for p in proposals])
    return self.box_predictor, self.box_predictor(pooled.amax(dim=[2, 3]))


BRANCHES = {
    "standard": (Scaled, OHEMMixin, "fpn", score_scaled),
    "C4": (MaxPooled, OHEMRes5ROIHeads, "c4", score_by_max),
}


@pytest.mark.parametrize("name", BRANCHES)
def test_a_branch_that_predicts_otherwise_is_told_to_override_score_rois(name):
    heads, base, zoo, score = BRANCHES[name]
    ours, plain, inputs = door(heads, base, zoo=zoo)
    with pytest.raises(RuntimeError, match=f"OHEM{heads.__name__} .* Override score_rois"):
        train_heads(ours, inputs)
    ours.roi_heads.__class__ = type("Mended", (type(ours.roi_heads),), {"score_rois": score})
    assert_trains_on_the_mined_batch(ours, plain, inputs)


def test_a_cascade_that_predicts_otherwise_is_noticed_when_only_its_training_differs():
    ours, _, inputs = door(Detuned, OHEMCascadeROIHeads, zoo="cascade")
    # In the sampler hook the branch has not been entered yet, so scoring is without the boost.
    with pytest.raises(RuntimeError, match="OHEMDetuned .* Override score_rois"):
        train_heads(ours, inputs)


def test_heads_without_the_standard_parts_have_to_say_how_they_score():
    class Cascade(CascadeROIHeads):
        pass

    name = registered(Cascade, OHEMMixin)
    with pytest.raises(TypeError, match="has to say how it scores RoIs.*OHEMCascadeROIHeads"):
        detector(config("cascade", "MODEL.ROI_HEADS.NAME", name))


def test_the_proof_is_made_again_after_a_change():
    model, inputs = detector(config()), batch(config())
    heads = model.roi_heads
    passes = []
    heads.box_predictor.register_forward_hook(lambda *_: passes.append(1))

    def step():
        passes.clear()
        train_heads(model, inputs)
        return len(passes)

    first, second = step(), step()
    assert first > second  # the proof, and none
    model.eval()
    model.train()
    assert step() == second
    heads.box_head.eval()
    assert step() == first
    assert step() == second
    losses = heads.box_predictor.losses
    heads.box_predictor.losses = lambda *args: losses(*args)
    assert step() == first

    class Sharp(FastRCNNOutputLayers):
        def forward(self, x):
            scores, deltas = super().forward(x)
            return (scores * 3 if self.training else scores), deltas

    torch.manual_seed(0)
    heads.box_predictor = Sharp(config(), ShapeSpec(channels=16))
    with pytest.raises(RuntimeError, match="other predictions"):
        step()


class OtherClasses(FastRCNNOutputLayers):
    """Open vocabulary: in evaluation mode there are more classes."""

    def forward(self, x):
        scores, deltas = super().forward(x)
        return (scores if self.training else F.pad(scores, (0, 5), value=2.0)), deltas


def test_predictions_of_another_shape_are_noticed():
    model = detector(config())
    torch.manual_seed(0)
    model.roi_heads.box_predictor = OtherClasses(config(), ShapeSpec(channels=16))
    with pytest.raises(RuntimeError, match="OtherClasses differ"):
        train_heads(model, batch(config()))


class Softmaxed(FastRCNNOutputLayers):
    """In evaluation mode it gives probabilities."""

    def forward(self, x):
        scores, deltas = super().forward(x)
        return (scores if self.training else scores.softmax(dim=1)), deltas


def test_a_predictor_that_differs_in_evaluation_mode_is_noticed():
    model = detector(config())
    torch.manual_seed(0)
    model.roi_heads.box_predictor = Softmaxed(config(), ShapeSpec(channels=16))
    with pytest.raises(RuntimeError, match="Softmaxed differ"):
        train_heads(model, batch(config()))


@pytest.mark.parametrize(
    "patch, mined",
    [
        (lambda losses: {k: 2 * v for k, v in losses.items()}, True),  # the same order
        (lambda losses: {**losses, "loss_box_reg": 4 * losses["loss_box_reg"]}, False),
        (lambda losses: {**losses, "loss_cls": losses["loss_cls"] ** 2}, False),
    ],
)
def test_losses_that_are_patched_on_the_instance(patch, mined):
    model, inputs = detector(config()), batch(config())
    losses = model.roi_heads.box_predictor.losses
    model.roi_heads.box_predictor.losses = lambda *args: patch(losses(*args))
    if mined:
        train_heads(model, inputs)
    else:
        with pytest.raises(RuntimeError, match="OHEMROIHeads would be ranked by other losses"):
            train_heads(model, inputs)


def reweighted(predictions, proposals, predictor):
    """Foreground counts four times as much, normalized."""
    classes = torch.cat([p.gt_classes for p in proposals])
    weights = torch.where(classes < 80, 4.0, 1.0)
    loss = F.cross_entropy(predictions[0], classes, reduction="none")
    losses = FastRCNNOutputLayers.losses(predictor, predictions, proposals)
    return {**losses, "loss_cls": (weights * loss).sum() / weights.sum()}


def smoothed(predictions, proposals, predictor):
    classes = torch.cat([p.gt_classes for p in proposals])
    losses = FastRCNNOutputLayers.losses(predictor, predictions, proposals)
    return {**losses, "loss_cls": F.cross_entropy(predictions[0], classes, label_smoothing=0.3)}


def at_random(predictions, proposals, predictor):
    """As a federated loss: of classes that are drawn in each call."""
    classes = torch.cat([p.gt_classes for p in proposals])
    losses = FastRCNNOutputLayers.losses(predictor, predictions, proposals)
    drawn = torch.rand(81) > 0.5
    drawn[classes] = True
    scores = predictions[0].masked_fill(~drawn, -1e4)
    return {**losses, "loss_cls": F.cross_entropy(scores, classes)}


@pytest.mark.parametrize("losses", [reweighted, at_random])
def test_losses_of_a_fresh_predictor_are_told_apart(losses):
    """All its losses are about log 81, whatever they are: their derivatives differ."""
    model = detector(config())
    predictor = model.roi_heads.box_predictor
    nn.init.normal_(predictor.cls_score.weight, std=1e-4)
    predictor.losses = lambda predictions, proposals: losses(predictions, proposals, predictor)
    with pytest.raises(RuntimeError, match="loss_cls has other derivatives"):
        train_heads(model, batch(config()))


def test_losses_that_cannot_be_told_apart_at_first_are_later_on():
    """With equal scores smoothing the labels is but a factor."""
    model, inputs = detector(config()), batch(config())
    heads, predictor = model.roi_heads, model.roi_heads.box_predictor
    nn.init.zeros_(predictor.cls_score.weight)
    predictor.losses = lambda predictions, proposals: smoothed(predictions, proposals, predictor)
    arguments = roi_inputs(model, inputs)
    with EventStorage(), torch.no_grad():
        for _ in range(50):
            heads(*arguments)
        nn.init.normal_(predictor.cls_score.weight)
        with pytest.raises(RuntimeError, match="other losses"):
            for _ in range(60):
                heads(*arguments)


class Doubled(StandardROIHeads):
    """It weights a loss itself."""

    def _forward_box(self, features, proposals):
        losses = super()._forward_box(features, proposals)
        return {**losses, "loss_box_reg": 2 * losses["loss_box_reg"]} if self.training else losses


def test_a_weight_outside_of_the_predictor_is_ranked_by_its_own():
    ours, _, inputs = door(Doubled)
    with pytest.raises(RuntimeError, match="RANK_LOC_WEIGHT 2 ranks as it trains"):
        train_heads(ours, inputs)
    ours.roi_heads.ohem = OHEMSettings(rank_loc_weight=2.0)
    train_heads(ours, inputs)


def test_a_confident_head_without_objects_is_no_error():
    model = detector(config())
    with torch.no_grad():
        model.roi_heads.box_predictor.cls_score.bias[-1] = 60
    train_heads(model, batch(config(), (0, 0)))


class NoisyMasks(StandardROIHeads):
    """Its boxes are predicted otherwise, and another loss draws at random."""

    def _forward_box(self, features, proposals):
        return super()._forward_box({k: 2 * v for k, v in features.items()}, proposals)

    def forward(self, images, features, proposals, targets=None):
        proposals, losses = super().forward(images, features, proposals, targets)
        return proposals, {**losses, "loss_noise": torch.rand(()) * sum(losses.values())}


def test_chance_elsewhere_is_no_excuse():
    ours, _, inputs = door(NoisyMasks)
    with pytest.raises(RuntimeError, match="OHEMNoisyMasks .* Override score_rois"):
        train_heads(ours, inputs)


class Counting(StandardROIHeads):
    """A buffer that each forward moves, and a call of itself."""

    def __init__(self, cfg, input_shape):
        super().__init__(cfg, input_shape)
        self.register_buffer("count", torch.zeros(()))
        self.inner = False

    def forward(self, images, features, proposals, targets=None):
        self.count += 1
        if self.inner:
            self.inner = False
            with torch.no_grad():
                self(images, features, copy.copy(proposals), targets)
        return super().forward(images, features, proposals, targets)


def test_buffers_and_calls_within_calls():
    ours, _, inputs = door(Counting)
    losses, _, _ = train_heads(ours, inputs)
    assert ours.roi_heads.count == 1 and losses
    ours.roi_heads.inner = True
    _, trained, storage = train_heads(ours, inputs)
    assert [len(image) for image in trained] == [16, 16]


class OtherNames(StandardROIHeads):
    def forward(self, pictures, maps, boxes, gt=None, *, note=""):
        return super().forward(pictures, maps, boxes, gt)


class AnyNames(StandardROIHeads):
    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs)


@pytest.mark.parametrize("heads", [OtherNames, AnyNames])
def test_arguments_by_their_places(heads):
    ours, plain, inputs = door(heads)
    shown = []

    class Watcher:
        def due(self):
            return True

        def show(self, mining):
            shown.append(mining)

    ours.roi_heads.watcher = Watcher()
    assert_trains_on_the_mined_batch(ours, plain, inputs)
    assert shown and torch.equal(
        shown[0].target.gt_boxes.tensor, inputs[0]["instances"].gt_boxes.tensor
    )


class ImageByImage(StandardROIHeads):
    def forward(self, images, features, proposals, targets=None):
        pairs = zip(proposals, targets)
        sampled = [self.label_and_sample_proposals([p], [t])[0] for p, t in pairs]
        return sampled, self._forward_box(features, sampled)


def test_a_sampler_that_is_called_image_by_image_has_the_wrong_features():
    """Each call is scored on the maps of the whole batch, which poolers notice."""
    ours, _, inputs = door(ImageByImage)
    with pytest.raises(AssertionError):
        train_heads(ours, inputs)
    _, trained, _ = train_heads(ours, inputs[:1])
    assert [len(image) for image in trained] == [16]


class Renamed(StandardROIHeads):
    """Losses of other names: then those of the predictor are compared."""

    def _forward_box(self, features, proposals):
        losses = super()._forward_box(features, proposals)
        return {f"{k}_rcnn": v for k, v in losses.items()} if self.training else losses


def test_losses_of_other_names():
    ours, plain, inputs = door(Renamed)
    assert_trains_on_the_mined_batch(ours, plain, inputs)
    losses = ours.roi_heads.box_predictor.losses
    ours.roi_heads.box_predictor.losses = lambda *args: {
        **losses(*args),
        "loss_cls": 5 * losses(*args)["loss_cls"],
    }
    with pytest.raises(RuntimeError, match="other losses"):
        train_heads(ours, inputs)


class RenamedLoss(FastRCNNOutputLayers):
    """Open set: the classification loss goes by another name."""

    def losses(self, predictions, proposals):
        losses = super().losses(predictions, proposals)
        return {"loss_cls_ce": losses["loss_cls"], "loss_box_reg": losses["loss_box_reg"]}


@per_roi_losses.register(RenamedLoss)
def _(predictor, predictions, proposals):
    return per_roi_losses.dispatch(FastRCNNOutputLayers)(predictor, predictions, proposals)


def test_half_of_the_losses_under_other_names_is_warned_of(warnings):
    model = detector(config())
    torch.manual_seed(0)
    model.roi_heads.box_predictor = RenamedLoss(config(), ShapeSpec(channels=16))
    train_heads(model, batch(config()))
    (message,) = warnings
    assert "could not be proven" in message and "RenamedLoss.losses()" in message


class Noisy(nn.Sequential):
    """A layer of chance that PyTorch does not know as dropout."""

    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(16 * 49, 16))

    def forward(self, x):
        x = super().forward(x)
        return x + torch.randn_like(x) if self.training else x


def test_heads_that_cannot_be_proven_are_warned_of_and_mined(warnings):
    model = detector(config())
    torch.manual_seed(0)
    model.roi_heads.box_head = Noisy()
    _, _, storage = train_heads(model, batch(config()))
    (message,) = warnings
    assert "could not be proven" in message and "chance" in message
    assert "ohem/num_fg" in storage.latest()


class Functional(StandardROIHeads):
    """It trains without a call of the predictor or its losses, and names them as it likes."""

    names = ("loss_a", "loss_b")

    def _forward_box(self, features, proposals):
        maps = [features[f] for f in self.box_in_features]
        x = self.box_head(self.box_pooler(maps, [p.proposal_boxes for p in proposals]))
        scores = self.box_predictor.cls_score(x)
        classes = torch.cat([p.gt_classes for p in proposals])
        deltas = self.box_predictor.bbox_pred(x)
        losses = weighted(self.box_predictor, torch.zeros_like(scores[:, 0]), deltas, proposals)
        values = (F.cross_entropy(scores, classes), losses["loss_box_reg"].mean())
        return dict(zip(self.names, values))


def test_a_training_pass_without_a_call_of_the_predictor(warnings):
    """Its losses decide, if they go by their names."""
    ours, _, inputs = door(Functional)
    train_heads(ours, inputs)
    assert len(warnings) == 1 and "calls neither FastRCNNOutputLayers" in warnings[0]
    for names, proven in (
        (("loss_cls", "loss_box_reg"), True),
        (("loss_box_reg", "loss_cls"), False),
    ):
        ours, _, inputs = door(Functional)
        ours.roi_heads.names = names
        if proven:
            train_heads(ours, inputs)
        else:
            with pytest.raises(RuntimeError, match="other predictions"):
                train_heads(ours, inputs)
    assert len(warnings) == 1


class TwoPredictors(StandardROIHeads):
    """Scores of one predictor with the deltas of another: no module gives both."""

    @configurable
    def __init__(self, *, cls_predictor, **kwargs):
        super().__init__(**kwargs)
        self.cls_predictor = cls_predictor

    @classmethod
    def from_config(cls, cfg, input_shape):
        ret = super().from_config(cfg, input_shape)
        return {**ret, "cls_predictor": FastRCNNOutputLayers(cfg, ret["box_head"].output_shape)}

    def _forward_box(self, features, proposals):
        maps = [features[f] for f in self.box_in_features]
        x = self.box_head(self.box_pooler(maps, [p.proposal_boxes for p in proposals]))
        scores, _ = self.cls_predictor(x)
        _, deltas = self.box_predictor(x)
        classes = torch.cat([p.gt_classes for p in proposals])
        losses = weighted(self.box_predictor, torch.zeros_like(scores[:, 0]), deltas, proposals)
        loss_box_reg = losses["loss_box_reg"].mean()
        return {"loss_cls": F.cross_entropy(scores, classes), "loss_box_reg": loss_box_reg}


def score_by_two(self, features, proposals, stage=0):
    maps = [features[f] for f in self.box_in_features]
    x = self.box_head(self.box_pooler(maps, [p.proposal_boxes for p in proposals]))
    return self.box_predictor, (self.cls_predictor(x)[0], self.box_predictor(x)[1])


def test_predictions_that_no_module_makes_are_proven_by_their_losses(warnings):
    ours, _, inputs = door(TwoPredictors, score_rois=score_by_two)
    losses, _, storage = train_heads(ours, inputs)
    assert warnings == []
    hard = storage.latest()["ohem/mean_cls_hard"][0]
    assert hard == pytest.approx(float(losses["loss_cls"]), rel=1e-4)


# ---- arguments ----------------------------------------------------------------------------------


class Conditioned(StandardROIHeads):
    """Its classifier is given with each call."""

    def forward(self, images, features, proposals, targets=None, kind="box", classifier_info=None):
        if self.training:
            proposals = self.label_and_sample_proposals(proposals, targets)
        maps = [features[f] for f in self.box_in_features]
        pooled = self.box_pooler(maps, [p.proposal_boxes for p in proposals])
        predictions = self.predict(pooled, classifier_info)
        if self.training:
            return proposals, self.box_predictor.losses(predictions, proposals)
        return self.box_predictor.inference(predictions, proposals)[0], {}

    def predict(self, pooled, classifier_info):
        scores, deltas = self.box_predictor(self.box_head(pooled))
        return (scores if classifier_info is None else scores * classifier_info), deltas


def score_conditioned(self, features, proposals, stage=0, classifier_info=None):
    maps = [features[f] for f in self.box_in_features]
    pooled = self.box_pooler(maps, [p.proposal_boxes for p in proposals])
    return self.box_predictor, self.predict(pooled, classifier_info)


@pytest.mark.parametrize("by_name", [True, False])
def test_further_arguments_of_forward_reach_the_scoring(by_name):
    ours, plain, inputs = door(Conditioned, score_rois=score_conditioned)
    classifier = torch.linspace(-3, 3, 81)
    extra = ({"classifier_info": classifier}, ()) if by_name else ({}, ("box", classifier))
    seen = []
    score = ours.roi_heads.score_rois

    def spy(features, proposals, stage=0, classifier_info=None):
        seen.append(classifier_info)
        return score(features, proposals, stage, classifier_info)

    ours.roi_heads.score_rois = spy
    with EventStorage() as storage:
        _, losses = ours.roi_heads(*roi_inputs(ours, inputs), *extra[1], **extra[0])
    assert seen and all(info is classifier for info in seen)
    latest = storage.latest()
    hard = latest["ohem/mean_cls_hard"][0]
    assert hard == pytest.approx(float(losses["loss_cls"]), rel=1e-4)


def test_further_arguments_that_the_scoring_does_not_take_are_noticed(warnings):
    ours, _, inputs = door(Conditioned)  # registered above with its score_rois

    class Forgetful(OHEMMixin, Conditioned):
        pass

    ours.roi_heads.__class__ = Forgetful
    with EventStorage(), pytest.raises(RuntimeError, match="Forgetful would be ranked by other"):
        ours.roi_heads(*roi_inputs(ours, inputs), classifier_info=torch.linspace(-3, 3, 81))


class Teacher(StandardROIHeads):
    """Semi-supervised: closed signatures, calls without losses, a loss in evaluation mode."""

    def forward(
        self,
        images,
        features,
        proposals,
        targets=None,
        compute_loss=True,
        branch="",
        compute_val_loss=False,
    ):
        del images
        if (self.training and compute_loss) or compute_val_loss:
            proposals = self.label_and_sample_proposals(proposals, targets, branch=branch)
        predictions = self._predictions(features, proposals)
        if (self.training and compute_loss) or compute_val_loss:
            return proposals, self.box_predictor.losses(predictions, proposals)
        found, _ = self.box_predictor.inference(predictions, proposals)
        return found, predictions

    def _predictions(self, features, proposals):
        maps = [features[f] for f in self.box_in_features]
        pooled = self.box_pooler(maps, [p.proposal_boxes for p in proposals])
        return self.box_predictor(self.box_head(pooled))

    def label_and_sample_proposals(self, proposals, targets, branch=""):
        self.branches.append(branch)
        return super().label_and_sample_proposals(proposals, targets)

    def _sample_proposals(self, matched_idxs, matched_labels, gt_classes, matched_ious=None):
        return super()._sample_proposals(matched_idxs, matched_labels, gt_classes)

    branches = []


@pytest.mark.parametrize("by_name", [True, False])
def test_closed_signatures(by_name, warnings):
    ours, plain, inputs = door(Teacher)
    assert_trains_on_the_mined_batch(ours, plain, inputs)
    arguments, heads = roi_inputs(ours, inputs), ours.roi_heads
    heads.branches.clear()
    with EventStorage() as storage:
        if by_name:
            images, features, proposals, targets = arguments
            sampled, losses = heads(
                images, features, proposals=proposals, targets=targets, branch="supervised"
            )
        else:
            sampled, losses = heads(*arguments, True, "supervised")
    assert set(losses) == {"loss_cls", "loss_box_reg"} and "ohem/num_fg" in storage.latest()
    assert set(heads.branches) == {"supervised"}
    assert [len(image) for image in sampled] == [16, 16]
    # A teacher's call: training mode, no losses
    with EventStorage() as storage, torch.no_grad():
        if by_name:
            found, predictions = heads(*arguments[:3], targets=None, compute_loss=False)
        else:
            found, predictions = heads(*arguments[:3], None, False)
    assert isinstance(predictions, tuple) and not storage.latest()
    # A validation loss: evaluation mode and targets; the parent's own sampling
    ours.eval(), plain.eval()
    results = []
    for model in (ours, plain):
        torch.manual_seed(0)
        with EventStorage() as storage, torch.no_grad():
            results.append(model.roi_heads(*roi_inputs(model, inputs), compute_val_loss=True)[1])
            assert not any("ohem" in name for name in storage.latest())
    assert all(torch.equal(results[0][k], results[1][k]) for k in results[0])
    assert warnings == []


# ---- what a sampler changes ---------------------------------------------------------------------


class Jittered(StandardROIHeads):
    """New boxes in each call, and only a part of the old ones."""

    def label_and_sample_proposals(self, proposals, targets):
        moved = []
        for image in proposals:
            image = image[image.objectness_logits > -1]
            boxes = image.proposal_boxes.tensor
            boxes = boxes + 3 * torch.randn_like(boxes)
            boxes = torch.cat([boxes.aminmax(dim=0).min[None], boxes])[1:]
            image.proposal_boxes = Boxes(boxes)
            image.proposal_boxes.clip(image.image_size)
            moved.append(image)
        self.calls += 1
        return super().label_and_sample_proposals(moved, targets)

    calls = 0


def test_labels_are_those_of_the_boxes_that_are_trained_on():
    ours, _, inputs = door(Jittered)
    heads, seen = ours.roi_heads, []
    choose = heads.choose_rois
    heads.choose_rois = lambda rois, targets: seen.append(rois) or choose(rois, targets)
    for _ in range(3):
        calls = heads.calls
        _, trained, _ = train_heads(ours, inputs)
        assert heads.calls == calls + 1
        for image, rois, x in zip(trained, seen[-1], inputs):
            target = x["instances"]
            iou = pairwise_iou(image.proposal_boxes, target.gt_boxes)
            best, index = iou.max(dim=1)
            expected = torch.where(best >= 0.5, target.gt_classes[index], 80)
            assert torch.equal(image.gt_classes, expected)
            assert torch.equal(image.gt_boxes.tensor, target.gt_boxes.tensor[index])
            # They are among the boxes that were scored.
            scored = set(map(tuple, rois.proposal_boxes.tensor.tolist()))
            assert set(map(tuple, image.proposal_boxes.tensor.tolist())) <= scored


class WithMasks(StandardROIHeads):
    def label_and_sample_proposals(self, proposals, targets):
        sampled = super().label_and_sample_proposals(proposals, targets)
        for image in sampled:
            self.sizes.append(len(image.gt_masks))
            image.extra = torch.arange(len(image))
        get = sampled[0].gt_masks
        self.classes.append(type(get).__mro__[1:])
        return sampled

    sizes, classes = [], []


def test_masks_are_copied_for_what_is_mined_alone():
    ours, plain, inputs = door(WithMasks, zoo="mask")
    _, trained, _ = train_heads(ours, inputs)
    for image, x in zip(trained, inputs):
        masks, boxes = x["instances"].gt_masks, x["instances"].gt_boxes.tensor
        assert type(image.gt_masks) is type(masks) and len(image) == 16
        matched = (image.gt_boxes.tensor[:, None] == boxes).all(dim=2).int().argmax(dim=1)
        assert torch.equal(image.gt_masks.tensor, masks.tensor[matched])
        assert len(image.extra) == 16


# ---- constructors -------------------------------------------------------------------------------


class OldStyle(StandardROIHeads):
    """The commonest form: no @configurable."""

    def __init__(self, cfg, input_shape):
        super().__init__(cfg, input_shape)
        self.own = cfg.MODEL.ROI_HEADS.NAME


class ExplicitCfg(Res5ROIHeads):
    """@configurable, with the cfg itself among the explicit arguments."""

    @configurable
    def __init__(self, **kwargs):
        self_cfg = kwargs.pop("cfg")
        super().__init__(**kwargs)
        self.own = self_cfg.MODEL.ROI_HEADS.NAME

    @classmethod
    def from_config(cls, cfg, input_shape):
        return {**super().from_config(cfg, input_shape), "cfg": cfg}


class OldStyleCascade(CascadeROIHeads):
    def __init__(self, cfg, input_shape):
        super().__init__(cfg, input_shape)
        self.own = cfg.MODEL.ROI_HEADS.NAME


@pytest.mark.parametrize(
    "heads, base, zoo",
    [
        (OldStyle, OHEMMixin, "fpn"),
        (ExplicitCfg, OHEMRes5ROIHeads, "c4"),
        (OldStyleCascade, OHEMCascadeROIHeads, "cascade"),
    ],
)
def test_constructors(heads, base, zoo):
    ours, plain, inputs = door(heads, base, zoo=zoo, ohem={"nms_thresh": 0.6})
    assert ours.roi_heads.ohem.nms_thresh == 0.6
    assert ours.roi_heads.own == f"OHEM{heads.__name__}"
    ours.roi_heads.ohem = OHEMSettings()
    assert_trains_on_the_mined_batch(ours, plain, inputs)


class Upon(OHEMROIHeads):
    """A @configurable class on top of OHEM heads; settings come through its from_config."""

    @configurable
    def __init__(self, *, own, **kwargs):
        super().__init__(**kwargs)
        self.own = own

    @classmethod
    def from_config(cls, cfg, input_shape):
        return {**super().from_config(cfg, input_shape), "own": 7}


class UponOldStyle(OHEMROIHeads):
    def __init__(self, cfg, input_shape):
        super().__init__(cfg, input_shape)
        self.own = 7


@pytest.mark.parametrize("cls", [Upon, UponOldStyle])
def test_classes_on_top_of_ohem_heads_have_the_settings(cls):
    cfg = config(ohem={"nms_thresh": 0.6})
    heads = cls(cfg, detector(cfg).backbone.output_shape())
    assert heads.ohem.nms_thresh == 0.6 and heads.own == 7


# ---- predictors ---------------------------------------------------------------------------------


class FourOutputs(FastRCNNOutputLayers):
    """Scores, deltas, variances of the deltas, and what it has not."""

    def __init__(self, cfg, input_shape):
        super().__init__(cfg, input_shape)
        self.spread = nn.Linear(input_shape.channels, 1)

    def forward(self, x):
        scores, deltas = super().forward(x)
        return scores, deltas, self.spread(x), None

    def losses(self, predictions, proposals):
        scores, deltas, spread, _ = predictions
        losses = super().losses((scores, deltas), proposals)
        return {**losses, "loss_cls": losses["loss_cls"] + spread.exp().mean()}

    def inference(self, predictions, proposals):
        return super().inference(predictions[:2], proposals)


def with_predictor(model, predictor):
    torch.manual_seed(0)
    model.roi_heads.box_predictor = predictor(config(), ShapeSpec(channels=16))
    nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight)
    return model


def test_a_loss_is_described_from_outside():
    cfg = config()
    shape = ShapeSpec(channels=16)
    with pytest.raises(TypeError, match=r"FourOutputs has a losses\(\) of its own.*register"):
        check_predictor(FourOutputs(cfg, shape))

    @per_roi_losses.register(FourOutputs)
    def _(predictor, predictions, proposals):
        scores, deltas, spread, nothing = predictions
        assert nothing is None
        losses = per_roi_losses(plain, (scores, deltas), proposals)
        return {**losses, "loss_cls": losses["loss_cls"] + spread.exp().squeeze(1)}

    plain = FastRCNNOutputLayers(cfg, shape)
    model = with_predictor(detector(cfg), FourOutputs)
    losses, trained, storage = train_heads(model, batch(cfg))
    assert [len(image) for image in trained] == [16, 16]
    hard = logged(storage)["ohem/mean_cls_hard"]
    assert hard == pytest.approx([float(losses["loss_cls"])], rel=1e-4)

    class Below(FourOutputs):
        def losses(self, predictions, proposals):
            return {}

    with pytest.raises(TypeError, match=r"Below has a losses\(\) of its own"):
        check_predictor(Below(cfg, shape))


class NoLosses(nn.Module):
    def forward(self, x):
        return x, x


def test_a_predictor_without_losses_is_not_told_that_it_has_its_own():
    with pytest.raises(TypeError, match="NoLosses is no FastRCNNOutputLayers") as error:
        check_predictor(NoLosses())
    assert "of its own" not in str(error.value)


# ---- cascades, matchers, several lists an image -------------------------------------------------


class WithLogits(CascadeROIHeads):
    def _create_proposals_from_boxes(self, boxes, image_sizes, logits):
        proposals = super()._create_proposals_from_boxes(boxes, image_sizes)
        for image, logit in zip(proposals, logits):
            image.objectness_logits = logit
        return proposals

    def _forward_box(self, features, proposals, targets=None):
        maps = [features[f] for f in self.box_in_features]
        predictions = self._run_stage(maps, proposals, 0)
        losses = self.box_predictor[0].losses(predictions, proposals)
        return {f"{k}_stage0": v for k, v in losses.items()}


def test_stages_that_need_more_than_boxes():
    ours, plain, inputs = door(WithLogits, OHEMCascadeROIHeads, zoo="cascade")
    assert_trains_on_the_mined_batch(ours, plain, inputs)
    name = registered(WithLogits, OHEMCascadeROIHeads)
    with pytest.raises(TypeError, match=r"CASCADE_STAGES = 'all'.*takes logits"):
        detector(config("cascade", "MODEL.ROI_HEADS.NAME", name, ohem={"cascade_stages": "all"}))


class OwnMatcher:
    """Best IoU above a half; no labels, no thresholds."""

    def __call__(self, iou):
        best, index = iou.max(dim=0) if len(iou) else (iou.new_zeros(iou.shape[1]),) * 2
        return index.long(), (best >= 0.5).to(torch.int8)


def test_a_matcher_of_ones_own():
    cfg = config()
    arguments = OHEMROIHeads.from_config(cfg, detector(cfg).backbone.output_shape())
    arguments["proposal_matcher"] = OwnMatcher()
    model = detector(cfg)
    model.roi_heads = OHEMROIHeads(**arguments)
    _, trained, _ = train_heads(model, batch(cfg))
    assert [len(image) for image in trained] == [16, 16]


class ThreeBranches(StandardROIHeads):
    """Three lists of proposals for each image, one for each dilation."""

    def forward(self, images, features, proposals, targets=None):
        if targets is not None:
            targets = targets * 3
        return super().forward(images, features, proposals, targets)


def test_several_lists_of_proposals_an_image():
    ours, _, inputs = door(ThreeBranches)
    images, features, proposals, targets = roi_inputs(ours, inputs)
    features = {k: torch.cat([v] * 3) for k, v in features.items()}
    proposals = [copy.copy(p)[: 50 - 5 * i] for i in range(3) for p in proposals]
    with EventStorage() as storage:
        sampled, losses = ours.roi_heads(images, features, proposals, targets)
    assert [len(image) for image in sampled] == [16] * 6
    assert storage.latest()["ohem/num_candidates"][0] == (48.5 + 43.5 + 53.5) / 3
    hard = storage.latest()["ohem/mean_cls_hard"][0]
    assert hard == pytest.approx(float(losses["loss_cls"]), rel=1e-4)


# ---- settings -----------------------------------------------------------------------------------


def test_a_node_that_is_no_node_is_told_so():
    cfg = config()
    cfg.MODEL.ROI_HEADS.OHEM = True
    with pytest.raises(ValueError, match="OHEM = True; it is a node .* MODEL.ROI_HEADS.NAME"):
        detector(cfg)


@pytest.mark.parametrize(
    "key, default, old",
    [("MAX_NEG_PER_POS", -1, 3), ("MIN_NEG_PER_IMAGE", 0, 8), ("MAX_FG_FRACTION", 1.0, 0.25)],
)
def test_removed_keys(key, default, old):
    cfg = config()
    cfg.MODEL.ROI_HEADS.OHEM[key] = default
    detector(cfg)  # as files that were dumped have it
    cfg.MODEL.ROI_HEADS.OHEM[key] = old
    with pytest.raises(KeyError, match=f"{key} = {old}: this key was removed .* delete it"):
        detector(cfg)


# ---- hooks and wrappers -------------------------------------------------------------------------


def test_scoring_sees_what_pre_hooks_of_the_heads_changed():
    ours, plain, inputs = door(OwnForwardBox)

    def double(module, args):
        images, features, *rest = args
        return (images, {k: 2 * v for k, v in features.items()}, *rest)

    for model in (ours, plain):
        model.roi_heads.register_forward_pre_hook(double)
    assert_trains_on_the_mined_batch(ours, plain, inputs)


class Transparent(nn.Module):
    """A wrapper that hands everything through."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, *args):
        return self.inner(*args)

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)


@pytest.mark.parametrize("screening", [0.0, 2.0])
def test_wrappers_are_seen_through(screening):
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    trained = []
    twice = [Transparent, lambda module: Transparent(Transparent(module))]
    for wrap in (lambda module: module, *twice, checkpoint_wrapper):
        model = detector(config(budget=8, ohem={"screening": screening}))
        heads = model.roi_heads
        heads.box_head, heads.box_predictor = wrap(heads.box_head), wrap(heads.box_predictor)
        losses, rois, _ = train_heads(model, batch(config()))
        trained.append((losses, [image.proposal_boxes.tensor for image in rois]))
    for losses, boxes in trained[1:]:
        assert all(torch.equal(a, b) for a, b in zip(boxes, trained[0][1]))
        for name, loss in losses.items():
            torch.testing.assert_close(loss, trained[0][0][name])
