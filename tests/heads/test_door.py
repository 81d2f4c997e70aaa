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
from detectron2.structures import Boxes, Instances, pairwise_iou
from detectron2.utils.events import EventStorage
from models import batch, config, detector, roi_inputs
from steps import assert_trains_on_the_mined_batch, logged, pair_of, train_heads
from torch import nn

from ohem_d2 import (
    CannotMine,
    OHEMCascadeROIHeads,
    OHEMMixin,
    OHEMRes5ROIHeads,
    OHEMROIHeads,
    OHEMSettings,
    per_roi_losses,
)
from ohem_d2.mining.losses import check_predictor
from ohem_d2.testing import check_heads


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
    monkeypatch.setattr(logging.getLogger("ohem_d2.monitor.scalars"), "warning", messages.append)
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


def test_heads_without_the_standard_parts_have_to_say_how_they_score():
    class Cascade(CascadeROIHeads):
        pass

    name = registered(Cascade, OHEMMixin)
    with pytest.raises(TypeError, match="so it has to say how it scores RoIs.*OHEMCascadeROIHeads"):
        detector(config("cascade", "MODEL.ROI_HEADS.NAME", name))


def test_heads_upon_roi_heads_of_their_own():
    """Detectron2's have a share of foreground; those of a project call it otherwise."""
    ours, plain, inputs = door(OwnForwardBox)
    for model in (ours, plain):
        model.roi_heads.positive_sample_fraction = model.roi_heads.positive_fraction
        del model.roi_heads.positive_fraction
    assert_trains_on_the_mined_batch(ours, plain, inputs)
    check_heads(ours.roi_heads, *roi_inputs(ours, inputs))


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
    assert_trains_on_the_mined_batch(ours, plain, inputs)


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


class OHEMConditioned(OHEMMixin, Conditioned):
    """What each call is given is kept for the scoring."""

    def forward(self, images, features, proposals, targets=None, kind="box", classifier_info=None):
        self.classifier_info = classifier_info
        return super().forward(images, features, proposals, targets, kind, classifier_info)

    def score_rois(self, features, proposals):
        maps = [features[f] for f in self.box_in_features]
        pooled = self.box_pooler(maps, [p.proposal_boxes for p in proposals])
        return self.box_predictor, self.predict(pooled, self.classifier_info)


def test_further_arguments_of_forward_are_kept_for_the_scoring():
    ours, plain, inputs = door(Conditioned)
    ours.roi_heads.__class__ = OHEMConditioned
    classifier = torch.linspace(-3, 3, 81)
    with EventStorage() as storage:
        _, losses = ours.roi_heads(*roi_inputs(ours, inputs), classifier_info=classifier)
    hard = storage.latest()["ohem/mean_cls_hard"][0]
    assert hard == pytest.approx(float(losses["loss_cls"]), rel=1e-4)
    check_heads(ours.roi_heads, *roi_inputs(ours, inputs), classifier_info=classifier)
    ours.roi_heads.__class__ = type("Forgetful", (OHEMMixin, Conditioned), {})
    with pytest.raises(AssertionError, match="Forgetful: .*override score_rois"):
        check_heads(ours.roi_heads, *roi_inputs(ours, inputs), classifier_info=classifier)


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
    mine = heads.mine
    heads.mine = lambda rois, targets: seen.append(rois) or mine(rois, targets)
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
    """Its sampler reads the masks, so they are copied for all RoIs."""

    def label_and_sample_proposals(self, proposals, targets):
        sampled = super().label_and_sample_proposals(proposals, targets)
        for image in sampled:
            image.gt_size = image.gt_masks.tensor.float().mean(dim=(1, 2))
        return sampled


@pytest.mark.parametrize("left_out", [(), None])
def test_masks_for_a_sampler_that_reads_them(left_out):
    ours, _, inputs = door(WithMasks, zoo="mask")
    if left_out is None:
        with pytest.raises(AttributeError, match="gt_masks"):
            train_heads(ours, inputs)
        return
    ours.roi_heads.left_out = left_out
    _, trained, _ = train_heads(ours, inputs)
    for image, x in zip(trained, inputs):
        masks, boxes = x["instances"].gt_masks, x["instances"].gt_boxes.tensor
        assert type(image.gt_masks) is type(masks) and len(image) == 16
        matched = (image.gt_boxes.tensor[:, None] == boxes).all(dim=2).int().argmax(dim=1)
        assert torch.equal(image.gt_masks.tensor, masks.tensor[matched])
        assert torch.equal(image.gt_size, image.gt_masks.tensor.float().mean(dim=(1, 2)))
        assert not image.has("gt_index")


class Shuffled(StandardROIHeads):
    """It filters, joins and shuffles what it labelled."""

    def label_and_sample_proposals(self, proposals, targets):
        sampled = super().label_and_sample_proposals(proposals, targets)
        return [Instances.cat([image[1:], image[:1]]).to("cpu") for image in sampled]


def test_masks_follow_the_rois_whatever_a_sampler_does_with_them():
    ours, _, inputs = door(Shuffled, zoo="mask")
    _, trained, _ = train_heads(ours, inputs)
    for image, x in zip(trained, inputs):
        boxes = x["instances"].gt_boxes.tensor
        matched = (image.gt_boxes.tensor[:, None] == boxes).all(dim=2).int().argmax(dim=1)
        assert torch.equal(image.gt_masks.tensor, x["instances"].gt_masks.tensor[matched])


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
    with pytest.raises(CannotMine, match=r"has FourOutputs\.losses\(\) of its own.*register"):
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

    with pytest.raises(CannotMine, match=r"which has Below\.losses\(\) of its own"):
        check_predictor(Below(cfg, shape))


class NoLosses(nn.Module):
    def forward(self, x):
        return x, x


def test_a_predictor_without_losses_is_not_told_that_it_has_its_own():
    with pytest.raises(CannotMine, match="of NoLosses: describe it") as error:
        check_predictor(NoLosses())
    assert "of its own" not in str(error.value)


class TwoInputs(FastRCNNOutputLayers):
    def forward(self, x, y):
        return super().forward(x + y)


class TwoInputsHeads(StandardROIHeads):
    @classmethod
    def _init_box_head(cls, cfg, input_shape):
        ret = super()._init_box_head(cfg, input_shape)
        return {**ret, "box_predictor": TwoInputs(cfg, ret["box_head"].output_shape)}

    def _forward_box(self, features, proposals):
        predictions = self.predict(features, proposals)
        return self.box_predictor.losses(predictions, proposals)

    def predict(self, features, proposals):
        maps = [features[f] for f in self.box_in_features]
        x = self.box_head(self.box_pooler(maps, [p.proposal_boxes for p in proposals]))
        return self.box_predictor(x, x)


def test_a_predictor_with_two_inputs_is_told_to_override_score_rois():
    name = registered(TwoInputsHeads, OHEMMixin)
    words = "has a box_predictor, TwoInputs, with several inputs, .* override score_rois"
    with pytest.raises(CannotMine, match=words):
        detector(config("fpn", "MODEL.ROI_HEADS.NAME", name))

    def score(self, features, proposals):
        return self.box_predictor, self.predict(features, proposals)

    cfg = config("fpn")
    model = detector(cfg)
    heads = type("Mended", (OHEMMixin, TwoInputsHeads), {"score_rois": score})
    torch.manual_seed(0)
    model.roi_heads = heads(cfg, model.backbone.output_shape())
    check_heads(model.roi_heads, *roi_inputs(model, batch(cfg)))


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
    with pytest.raises(
        CannotMine, match="CASCADE_STAGES = 'all' needs stages that are made of boxes"
    ):
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
