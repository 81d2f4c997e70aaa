import copy
import logging

import pytest
import reference
import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import FastRCNNOutputLayers, ROIHeads, StandardROIHeads
from detectron2.structures import Boxes, pairwise_iou
from detectron2.utils.events import EventStorage
from models import ZOO, autocasts_to, batch, config, detector, gradients, roi_inputs
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ohem_d2 import OHEMMixin, OHEMROIHeads, OHEMSettings, per_roi_losses, select_hard_examples

# Relative errors of gradients in float32 that pass through a whole network.
CLOSE = {"rtol": 2e-3, "atol": 1e-5}


def train_heads(model, inputs):
    """Forward and backward through backbone and ROI heads; returns losses and trained RoIs."""
    trained = []
    seam = model.roi_heads.label_and_sample_proposals

    def spy(*args):
        trained.append(seam(*args))
        return trained[-1]

    model.roi_heads.label_and_sample_proposals = spy
    model.zero_grad()
    with EventStorage() as storage:
        _, losses = model.roi_heads(*roi_inputs(model, inputs))
        sum(losses.values()).backward()
    del model.roi_heads.label_and_sample_proposals
    return losses, trained[0], storage


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], **CLOSE, msg=lambda m: f"{name}: {m}")  # noqa: B023


def pair(name, *overrides, **kwargs):
    """An OHEM model and a plain one of the same weights, and inputs for them."""
    cfg = config(name, *overrides, **kwargs)
    ours = detector(cfg)
    kwargs.pop("ohem", None)
    plain = detector(config(name, *overrides, plain=True, **kwargs))
    plain.load_state_dict(ours.state_dict())
    return ours, plain, batch(cfg)


class Fixed:
    """Makes plain heads train on given RoIs: image by image, indices among all proposals."""

    def __init__(self, heads, chosen):
        self.heads, self.chosen = heads, iter(chosen)

    def __enter__(self):
        def sample(matched_idxs, matched_labels, gt_classes):
            classes = torch.full_like(matched_idxs, self.heads.num_classes)
            if len(gt_classes):
                foreground = matched_labels == 1
                classes[foreground] = gt_classes[matched_idxs[foreground]]
            index = next(self.chosen)
            return index, classes[index]

        self.heads._sample_proposals = sample

    def __exit__(self, *_):
        del self.heads._sample_proposals


def indices_of(trained, inputs):
    """Where the trained RoIs stand among the proposals with the ground truth appended."""
    result = []
    for image, x in zip(trained, inputs):
        boxes = torch.cat([x["proposals"].proposal_boxes.tensor, x["instances"].gt_boxes.tensor])
        same = (image.proposal_boxes.tensor[:, None] == boxes[None]).all(dim=2)
        assert same.any(dim=1).all()
        result.append(same.int().argmax(dim=1))
    return result


@pytest.mark.parametrize("name", ZOO)
def test_trains_as_the_parent_does_on_the_same_rois(name):
    ours, plain, inputs = pair(name)
    losses, trained, _ = train_heads(ours, inputs)
    with Fixed(plain.roi_heads, indices_of(trained, inputs)):
        plain_losses, plain_trained, _ = train_heads(plain, inputs)
    assert_same(losses, plain_losses)
    assert_same(gradients(ours), gradients(plain))
    for a, b in zip(trained, plain_trained):
        assert a.get_fields().keys() == b.get_fields().keys()
        assert torch.equal(a.gt_classes, b.gt_classes)


@pytest.mark.parametrize("name", ["fpn", "c4", "cascade"])
def test_chooses_by_the_losses_of_the_parent(name):
    """The choice is remade by hand: run the plain model on all RoIs, score, select."""
    ours, plain, inputs = pair(name)
    _, trained, _ = train_heads(ours, inputs)
    everything = [torch.arange(len(x["proposals"]) + len(x["instances"])) for x in inputs]
    stage0 = plain.roi_heads.box_predictor
    stage0 = stage0[0] if isinstance(stage0, nn.ModuleList) else stage0
    seen = []
    stage0.register_forward_hook(lambda *args: seen.append(args[2]))
    with Fixed(plain.roi_heads, everything):
        _, all_rois, _ = train_heads(plain, inputs)
    losses = per_roi_losses(stage0, [p.detach() for p in seen[0]], all_rois)
    losses = sum(losses.values()).split([len(image) for image in all_rois])
    for loss, image, index in zip(losses, all_rois, indices_of(trained, inputs)):
        expected = select_hard_examples(loss, image.proposal_boxes.tensor, image.gt_classes, 16)
        assert index.tolist() == expected.tolist()


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("settings", [{}, {"max_neg_per_pos": 1, "budget": "batch"}])
def test_loss_layer_equals_readonly(name, settings):
    readonly = detector(config(name, ohem=settings))
    loss_layer = detector(config(name, ohem={**settings, "implementation": "loss_layer"}))
    inputs = batch(config(name))
    losses, trained, _ = train_heads(readonly, inputs)
    other_losses, other_trained, _ = train_heads(loss_layer, inputs)
    assert_same(other_losses, losses)
    assert_same(gradients(loss_layer), gradients(readonly))
    for a, b in zip(trained, other_trained):
        torch.testing.assert_close(a.proposal_boxes.tensor, b.proposal_boxes.tensor)


@pytest.mark.parametrize("implementation", ["readonly", "loss_layer"])
def test_cascade_mines_at_all_stages(implementation):
    """Later stages train on hard RoIs among all refined ones, not on the first stage's."""
    settings = {"cascade_stages": "all", "implementation": implementation}
    model = detector(config("cascade", ohem=settings, budget=8))
    heads = model.roi_heads
    seen = []
    for stage, predictor in enumerate(heads.box_predictor):
        losses_of = predictor.losses

        def spy(predictions, proposals, stage=stage, losses_of=losses_of):
            seen.append((stage, [len(p) for p in proposals], len(predictions[0])))
            return losses_of(predictions, proposals)

        predictor.losses = spy
    _, trained, storage = train_heads(model, batch(config("cascade")))
    assert [stage for stage, _, _ in seen] == [0, 1, 2]
    for _, sizes, num_predictions in seen:
        assert sizes == [8, 8] and num_predictions == 16
    latest = storage.latest()
    for stage in range(3):
        # 60 proposals and the objects of each image reach every stage.
        assert latest[f"stage{stage}/ohem/num_candidates"][0] > 50
    assert heads._refined == [] and heads._features is None


def test_cascade_all_equals_its_loss_layer():
    inputs = batch(config("cascade"))
    results = []
    for implementation in ("readonly", "loss_layer"):
        settings = {"cascade_stages": "all", "implementation": implementation}
        model = detector(config("cascade", ohem=settings))
        losses, _, _ = train_heads(model, inputs)
        results.append((losses, gradients(model)))
    assert_same(results[0][0], results[1][0])
    assert_same(results[0][1], results[1][1])


def test_easy_rois_contribute_nothing():
    model = detector(config("fpn"))
    inputs = batch(config("fpn"))
    losses, trained, _ = train_heads(model, inputs)
    before = gradients(model)
    chosen = indices_of(trained, inputs)
    for x, index in zip(inputs, chosen):
        easy = [i for i in range(len(x["proposals"])) if i not in index.tolist()]
        x["proposals"] = x["proposals"][[i for i in range(60) if i not in easy[::2]]]
    losses_without, _, _ = train_heads(model, inputs)
    assert_same(losses_without, losses)
    assert_same(gradients(model), before)


@pytest.mark.parametrize("name", ["fpn", "mask", "c4-mask"])
def test_everything_hard_equals_the_parent_on_all_rois(name):
    ours, plain, inputs = pair(
        name, "MODEL.ROI_HEADS.POSITIVE_FRACTION", 1.0, budget=500, ohem={"nms_scope": "none"}
    )
    losses, trained, _ = train_heads(ours, inputs)
    assert [len(image) for image in trained] == [63, 64]
    everything = [torch.arange(63), torch.arange(64)]
    with Fixed(plain.roi_heads, everything):
        plain_losses, _, _ = train_heads(plain, inputs)
    assert_same(losses, plain_losses)
    assert_same(gradients(ours), gradients(plain))


class DropoutHead(nn.Sequential):
    """A box head with the dropout of the paper's VGG, and batch norm on top of it."""

    def __init__(self):
        super().__init__(
            nn.Flatten(), nn.Linear(16 * 49, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.5)
        )


@pytest.mark.parametrize("chunk_size", [1, 13, 64, 127])
def test_the_chunk_size_changes_nothing(chunk_size):
    inputs = batch(config("fpn"))
    results = []
    for size in (0, chunk_size):
        model = detector(config("fpn", ohem={"chunk_size": size}))
        torch.manual_seed(0)
        model.roi_heads.box_head = DropoutHead()
        model.roi_heads.box_predictor = FastRCNNOutputLayers(config("fpn"), ShapeSpec(channels=32))
        model.roi_heads.box_predictor.cls_score.weight.data.normal_()
        torch.manual_seed(1)
        losses, trained, _ = train_heads(model, inputs)
        results.append((indices_of(trained, inputs), losses))
    for a, b in zip(results[0][0], results[1][0]):
        assert a.tolist() == b.tolist()
    assert_same(results[0][1], results[1][1])


def test_dropout_can_be_left_out_of_scoring():
    inputs = batch(config("fpn"))
    chosen = {}
    for dropout in (True, False):
        for seed in (1, 2):
            model = detector(config("fpn", ohem={"readonly_dropout": dropout}))
            model.roi_heads.box_head = DropoutHead()
            model.roi_heads.box_head.load_state_dict(
                {n: torch.full_like(p, 0.01) for n, p in DropoutHead().state_dict().items()}
            )
            model.roi_heads.box_predictor = FastRCNNOutputLayers(
                config("fpn"), ShapeSpec(channels=32)
            )
            for i, p in enumerate(model.roi_heads.box_predictor.parameters()):
                p.data = torch.randn(p.shape, generator=torch.Generator().manual_seed(i))
            torch.manual_seed(seed)
            _, trained, _ = train_heads(model, inputs)
            chosen[dropout, seed] = [i.tolist() for i in indices_of(trained, inputs)]
    assert chosen[False, 1] == chosen[False, 2]
    assert chosen[True, 1] != chosen[True, 2]


def test_scoring_leaves_statistics_random_state_and_storage_alone():
    model = detector(config("fpn"))
    heads = model.roi_heads
    heads.box_head = DropoutHead()
    heads.box_predictor = FastRCNNOutputLayers(config("fpn"), ShapeSpec(channels=32))
    inputs = batch(config("fpn"))
    images, features, proposals, targets = roi_inputs(model, inputs)
    before = copy.deepcopy(heads.state_dict())
    rng = torch.get_rng_state()
    heads._features = features
    with EventStorage() as storage:
        sampled = heads.label_and_sample_proposals(proposals, targets)
        names = set(storage.latest())
    for name, value in heads.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(m.training for m in heads.modules())
    assert all(not p.requires_grad for s in sampled for p in [s.proposal_boxes.tensor])
    # Only what was mined, and the parent's count of it; no accuracy of the scoring pass.
    assert {name.split("/")[0] for name in names} == {"ohem", "roi_head"}
    assert "roi_head/num_fg_samples" in names


@pytest.mark.parametrize("num_proposals", [1000, 5000])
def test_peak_memory_is_bounded_by_the_chunk(num_proposals):
    model = detector(config("fpn", ohem={"chunk_size": 100}))
    widest = []
    model.roi_heads.box_head.register_forward_hook(lambda *args: widest.append(len(args[1][0])))
    inputs = batch(config("fpn"), num_proposals=num_proposals)
    train_heads(model, inputs)
    *scoring, training = widest
    assert max(scoring) == 100 and sum(scoring) == 2 * num_proposals + 7
    assert training == 32


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize(
    "case",
    [
        *("no proposals", "no objects", "nothing at all", "nothing at all, sigmoid"),
        *("no objects in one", "few", "one pixel"),
    ],
)
def test_every_parameter_gets_a_gradient(name, case):
    cfg = config(name)
    if case.endswith("sigmoid"):
        if "USE_SIGMOID_CE" not in cfg.MODEL.ROI_BOX_HEAD:
            pytest.skip("this version of Detectron2 has no sigmoid cross entropy")
        cfg.MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE = True
        case = case.removesuffix(", sigmoid")
    model = detector(cfg)
    objects = {"no objects": (0, 0), "nothing at all": (0, 0), "no objects in one": (3, 0)}
    inputs = batch(cfg, objects.get(case, (3, 4)))
    for x in inputs:
        if case in ("no proposals", "nothing at all"):
            x["proposals"] = x["proposals"][:0]
        if case == "few":
            x["proposals"] = x["proposals"][:2]
        if case == "one pixel":
            boxes = x["proposals"].proposal_boxes.tensor
            boxes[:, 2:] = boxes[:, :2] + 1
    with EventStorage():
        _, losses = model.roi_heads(*roi_inputs(model, inputs))
        sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    missing = [
        n for n, p in model.roi_heads.named_parameters() if p.requires_grad and p.grad is None
    ]
    assert missing == []


def test_the_whole_detector_trains_every_parameter():
    cfg = config("mask")
    model = detector(cfg)
    with EventStorage():
        sum(model(batch(cfg)).values()).backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_ignored_proposals_are_no_candidates():
    cfg = config(
        "fpn",
        *("MODEL.ROI_HEADS.IOU_THRESHOLDS", [0.3, 0.6]),
        *("MODEL.ROI_HEADS.IOU_LABELS", [0, -1, 1]),
        budget=500,
        ohem={"nms_scope": "none"},
    )
    model, inputs = detector(cfg), batch(cfg)
    _, trained, _ = train_heads(model, inputs)
    num_ignored = 0
    for image, x in zip(trained, inputs):
        iou = pairwise_iou(x["instances"].gt_boxes, x["proposals"].proposal_boxes).amax(dim=0)
        ignored = (iou >= 0.3) & (iou < 0.6)
        num_ignored += int(ignored.sum())
        assert len(image) == len(x["proposals"]) + len(x["instances"]) - int(ignored.sum())
        assert (image.gt_classes >= 0).all()
    assert num_ignored > 0


def test_background_below_bg_iou_low_is_no_candidate():
    cfg = config("fpn", budget=500, ohem={"bg_iou_low": 0.1, "nms_scope": "none"})
    model, inputs = detector(cfg), batch(cfg, (3, 0))
    _, trained, _ = train_heads(model, inputs)
    iou = pairwise_iou(trained[0].proposal_boxes, inputs[0]["instances"].gt_boxes).amax(dim=1)
    assert (iou >= 0.1).all() and ((iou < 0.5) == (trained[0].gt_classes == 80)).all()
    assert (trained[0].gt_classes == 80).any()
    assert len(trained[1]) == 0


def test_max_candidates_keeps_those_with_the_highest_objectness():
    cfg = config("fpn", budget=20, ohem={"max_candidates": 20, "nms_scope": "none"})
    model, inputs = detector(cfg), batch(cfg)
    _, trained, storage = train_heads(model, inputs)
    assert storage.latest()["ohem/num_candidates"][0] == 23.5  # and the ground truth
    for index, x in zip(indices_of(trained, inputs), inputs):
        best = x["proposals"].objectness_logits.topk(20).indices.tolist()
        assert set(index.tolist()) <= {*best, *range(60, 60 + len(x["instances"]))}


def test_proposals_without_the_ground_truth():
    cfg = config("fpn", "MODEL.ROI_HEADS.PROPOSAL_APPEND_GT", False, budget=500)
    model, inputs = detector(cfg), batch(cfg)
    _, trained, storage = train_heads(model, inputs)
    assert storage.latest()["ohem/num_candidates"][0] == 60
    assert all((index < 60).all() for index in indices_of(trained, inputs))


def test_a_batch_budget_is_shared():
    cfg = config("fpn", budget=16, ohem={"budget": "batch", "nms_scope": "none"})
    model, inputs = detector(cfg), batch(cfg, (3, 0))
    _, trained, _ = train_heads(model, inputs)
    sizes = [len(image) for image in trained]
    assert sum(sizes) == 32 and sizes[0] != sizes[1]


def test_warm_up_samples_at_random_and_then_mines():
    ours, plain, inputs = pair("fpn", ohem={"warmup_iters": 2})
    with EventStorage(0) as storage:
        for iteration in range(4):
            arguments = roi_inputs(ours, inputs)
            torch.manual_seed(iteration)
            _, losses = ours.roi_heads(*arguments)
            mined = storage.latest().get("ohem/num_fg", (0, -1))[1] == iteration
            assert mined == (iteration >= 2)
            if not mined:
                torch.manual_seed(iteration)
                _, plain_losses = plain.roi_heads(*roi_inputs(plain, inputs))
                assert_same(losses, plain_losses)
            storage.step()


def test_same_seed_same_selection():
    cfg = config("fpn")
    first, second = (
        indices_of(train_heads(detector(cfg), batch(cfg))[1], batch(cfg)) for _ in "ab"
    )
    assert [i.tolist() for i in first] == [i.tolist() for i in second]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_losses_that_are_not_finite_are_mined_first_and_warned_of_once(value, monkeypatch):
    messages = []
    # and not by caplog: in a long session a record may reach its handler by two ways
    monkeypatch.setattr(logging.getLogger("detectron2.ohem_d2"), "warning", messages.append)
    cfg = config("fpn")
    model, inputs = detector(cfg), batch(cfg)
    bad = Boxes(torch.tensor([[100.0, 60.0, 120.0, 90.0]]))
    inputs[0]["proposals"].proposal_boxes.tensor[10] = bad.tensor[0]
    score = model.roi_heads.score_rois

    def broken(features, proposals, stage=0):
        predictor, (scores, deltas) = score(features, proposals, stage)
        boxes = torch.cat([p.proposal_boxes.tensor for p in proposals])
        scores[(boxes == bad.tensor).all(dim=1)] = value
        return predictor, (scores, deltas)

    model.roi_heads.score_rois = broken
    for _ in range(3):
        _, trained, storage = train_heads(model, inputs)
        assert torch.equal(trained[0].proposal_boxes.tensor[:1], bad.tensor)
        assert storage.latest()["ohem/num_nonfinite"][0] == 0.5
    messages = [message for message in messages if "NaN or infinite" in message]
    assert len(messages) == 1 and "1 of 127 RoIs" in messages[0]


def test_a_cascade_goes_on_without_boxes_that_are_not_finite():
    model = detector(config("cascade", ohem={"cascade_stages": "all"}))
    score = model.roi_heads.score_rois

    def broken(features, proposals, stage=0):
        predictor, (scores, deltas) = score(features, proposals, stage)
        deltas[5] = float("nan") if stage == 0 and not torch.is_grad_enabled() else deltas[5]
        return predictor, (scores, deltas)

    model.roi_heads.score_rois = broken
    model.roi_heads.ohem = OHEMSettings(cascade_stages="all", rank_loc_weight=0.0)
    losses, _, storage = train_heads(model, batch(config("cascade")))
    assert all(torch.isfinite(loss) for loss in losses.values())
    latest = storage.latest()
    before, after = (latest[f"stage{k}/ohem/num_candidates"][0] for k in (0, 1))
    assert after <= before - 0.5


def test_scoring_in_the_loss_layer_updates_no_statistics_twice():
    cfg = config("c4", ohem={"implementation": "loss_layer"})
    model = detector(cfg)

    class Predictor(FastRCNNOutputLayers):
        def forward(self, x):
            return super().forward(self.norm(x))

    predictor = Predictor(cfg, ShapeSpec(channels=128))
    predictor.norm = nn.BatchNorm1d(128)
    model.roi_heads.box_predictor = predictor.train()
    train_heads(model, batch(cfg))
    assert int(predictor.norm.num_batches_tracked) == 1


def test_ranking_weights():
    cfg = config("fpn", budget=5, ohem={"rank_loc_weight": 0.0, "nms_scope": "none"})
    model, inputs = detector(cfg), batch(cfg)
    everything = detector(config("fpn", budget=500, ohem={"nms_scope": "none"}))
    seen = []
    everything.roi_heads.box_predictor.register_forward_hook(lambda *args: seen.append(args[2]))
    _, all_rois, _ = train_heads(everything, inputs)
    predictions = [p.detach() for p in seen[-1]]
    losses = per_roi_losses(everything.roi_heads.box_predictor, predictions, all_rois)
    by_cls = losses["loss_cls"].split([len(image) for image in all_rois])
    _, trained, storage = train_heads(model, inputs)
    for loss, image, hard in zip(by_cls, all_rois, trained):
        expected = image.proposal_boxes.tensor[loss.argsort(descending=True)[:5]]
        torch.testing.assert_close(hard.proposal_boxes.tensor, expected)
    cut = sum(float(loss.sort(descending=True).values[4]) for loss in by_cls) / 2
    assert storage.latest()["ohem/cut"][0] == pytest.approx(cut, rel=1e-4)


def test_scalars(storage):
    cfg = config("fpn", budget=8)
    model, inputs = detector(cfg), batch(cfg)
    _, trained, storage = train_heads(model, inputs)
    latest = {name: value for name, (value, _) in storage.latest().items()}
    fg = sum(int((image.gt_classes < 80).sum()) for image in trained) / 2
    assert latest["ohem/num_fg"] == fg == latest["roi_head/num_fg_samples"]
    assert latest["ohem/num_bg"] == 8 - fg == latest["roi_head/num_bg_samples"]
    assert latest["ohem/num_candidates"] == 63.5
    assert 8 <= latest["ohem/num_survivors"] <= 63.5
    for kind in ("cls", "loc"):
        assert f"ohem/mean_{kind}_all" in latest
    hard = latest["ohem/mean_cls_hard"] + latest["ohem/mean_loc_hard"]
    assert hard >= latest["ohem/cut"] > 0
    assert hard > latest["ohem/mean_cls_all"] + latest["ohem/mean_loc_all"]
    # Detectron2 prints every scalar with "loss" in its name among the losses.
    assert not [name for name in latest if name.startswith("ohem") and "loss" in name]


def test_inference_is_the_parents_bit_for_bit_and_checkpoints_fit_both_ways():
    for name in ("fpn", "c4-mask", "cascade"):
        ours, plain, inputs = pair(name, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0)
        plain.load_state_dict(ours.state_dict(), strict=True)
        ours.load_state_dict(plain.state_dict(), strict=True)
        ours.eval(), plain.eval()
        with torch.no_grad():
            for a, b in zip(ours(inputs), plain(inputs)):
                assert len(a["instances"]) == 100
                for field, value in a["instances"].get_fields().items():
                    other = b["instances"].get(field)
                    value, other = (getattr(v, "tensor", v) for v in (value, other))
                    assert torch.equal(value, other), field


def test_construction_without_a_cfg():
    cfg = config("fpn")
    by_cfg = detector(cfg).roi_heads
    arguments = {
        "num_classes": 80,
        "batch_size_per_image": 16,
        "positive_fraction": 0.25,
        "proposal_matcher": by_cfg.proposal_matcher,
        "box_in_features": by_cfg.box_in_features,
        "box_pooler": by_cfg.box_pooler,
        "box_head": by_cfg.box_head,
        "box_predictor": by_cfg.box_predictor,
    }
    assert OHEMROIHeads(**arguments).ohem == OHEMSettings()
    heads = OHEMROIHeads(**arguments, ohem=OHEMSettings(nms_thresh=0.3))
    assert heads.ohem.nms_thresh == 0.3
    model, inputs = detector(cfg), batch(cfg)
    model.roi_heads = heads
    _, trained, _ = train_heads(model, inputs)
    assert [len(image) for image in trained] == [16, 16]
    extra = OHEMROIHeads(cfg, model.backbone.output_shape(), ohem=OHEMSettings(nms_thresh=0.2))
    assert extra.ohem.nms_thresh == 0.2


class MyHeads(StandardROIHeads):
    """A user's heads: an argument of their own, another branch, labels with one more field."""

    @configurable
    def __init__(self, *, sharpness=1.0, **kwargs):
        super().__init__(**kwargs)
        self.sharpness = sharpness

    @classmethod
    def from_config(cls, cfg, input_shape):
        return {**super().from_config(cfg, input_shape), "sharpness": 2.0}

    def label_and_sample_proposals(self, proposals, targets):
        sampled = super().label_and_sample_proposals(proposals, targets)
        for image in sampled:
            image.gt_weight = torch.full((len(image),), self.sharpness)
        return sampled


class MyOHEMHeads(OHEMMixin, MyHeads):
    pass


def test_a_users_heads_become_ohem_heads():
    cfg = config("fpn")
    model = detector(cfg)
    model.roi_heads = MyOHEMHeads(cfg, model.backbone.output_shape())
    losses, trained, storage = train_heads(model, batch(cfg))
    assert all((image.gt_weight == 2.0).all() and len(image) == 16 for image in trained)
    assert "ohem/num_fg" in storage.latest()


def test_heads_that_cannot_mine_say_so():
    cfg = config("fpn")
    features = detector(cfg).backbone.output_shape()

    class Bare(ROIHeads):
        @configurable
        def __init__(self, **kwargs):
            super().__init__(**kwargs)

        @classmethod
        def from_config(cls, cfg, input_shape):
            return super().from_config(cfg)

    class OHEMBare(OHEMMixin, Bare):
        pass

    with pytest.raises(TypeError, match="OHEMBare has to say how it scores RoIs"):
        OHEMBare(cfg, features)

    class OwnBoxBranch(StandardROIHeads):
        def _forward_box(self, features, proposals):
            return super()._forward_box(features, proposals)

    class OHEMOwnBoxBranch(OHEMMixin, OwnBoxBranch):
        pass

    with pytest.raises(TypeError, match="OHEMOwnBoxBranch has to say .* as its _forward_box"):
        OHEMOwnBoxBranch(cfg, features)

    class OldStyle(StandardROIHeads):
        def __init__(self, cfg, input_shape):
            super().__init__(cfg, input_shape)

    with pytest.raises(TypeError, match="OldStyle.__init__ is not @configurable"):

        class OHEMOldStyle(OHEMMixin, OldStyle):
            pass

    class OwnSampling(MyHeads):
        def label_and_sample_proposals(self, proposals, targets):
            return proposals

    class OHEMOwnSampling(OHEMMixin, OwnSampling):
        pass

    model = detector(cfg)
    model.roi_heads = OHEMOwnSampling(cfg, features)
    with pytest.raises(TypeError, match="does not call _sample_proposals"):
        train_heads(model, batch(cfg))


def test_the_hook_outside_of_forward_says_what_is_missing(storage):
    model = detector(config("fpn"))
    _, _, proposals, targets = roi_inputs(model, batch(config("fpn")))
    with pytest.raises(RuntimeError, match="only when called by forward"):
        model.roi_heads.label_and_sample_proposals(proposals, targets)


def test_a_failing_step_leaves_the_heads_usable():
    cfg = config("fpn", ohem={"implementation": "loss_layer"})
    model, inputs = detector(cfg), batch(cfg)
    good, _, _ = train_heads(model, inputs)
    head, model.roi_heads.box_head = model.roi_heads.box_head, nn.Linear(1, 1)
    with pytest.raises(RuntimeError):
        train_heads(model, inputs)
    if "label_and_sample_proposals" in vars(model.roi_heads):
        del model.roi_heads.label_and_sample_proposals
    model.roi_heads.box_head = head
    assert_same(train_heads(model, inputs)[0], good)


def test_start_up_line(monkeypatch):
    lines = []
    monkeypatch.setattr(logging.getLogger("detectron2.ohem_d2"), "info", lines.append)
    detector(config("c4", ohem={"nms_thresh": 0.6}, budget=32))
    assert len(lines) == 1 and "OHEM is active" in lines[0]
    for part in ("OHEMRes5ROIHeads", "32", "0.6", "class", "readonly", "POSITIVE_FRACTION"):
        assert part in lines[0]


@pytest.mark.parametrize("dtype", [torch.bfloat16])
def test_mixed_precision_ranks_in_float32_and_trains_every_parameter(dtype):
    cfg = config("fpn")
    model, inputs = detector(cfg), batch(cfg)
    seen = []
    select = model.roi_heads._select
    model.roi_heads._select = lambda rois, losses, stage: (
        seen.append(losses) or select(rois, losses, stage)
    )
    arguments = roi_inputs(model, inputs)
    with EventStorage(), torch.autocast("cpu", dtype=dtype):
        _, losses = model.roi_heads(*arguments)
    sum(losses.values()).backward()
    assert {loss.dtype for loss in seen[0].values()} == {torch.float32}
    assert [n for n, p in model.roi_heads.named_parameters() if p.grad is None] == []


@pytest.mark.skipif(not autocasts_to(torch.float16), reason="PyTorch 2.0 cannot, on a CPU")
def test_scoring_in_another_precision():
    """It scores in it and trains in float32; outside of autocast and within."""
    cfg = config("fpn", ohem={"readonly_precision": "bfloat16"})
    model, inputs = detector(cfg), batch(cfg)
    seen = []
    model.roi_heads.box_head.register_forward_hook(
        lambda _, __, out: seen.append((out.dtype, out.requires_grad))
    )
    for autocast in (False, True):
        seen.clear()
        model.zero_grad()
        arguments = roi_inputs(model, inputs)
        with EventStorage(), torch.autocast("cpu", dtype=torch.float16, enabled=autocast):
            _, losses = model.roi_heads(*arguments)
        sum(losses.values()).backward()
        training = torch.float16 if autocast else torch.float32
        assert seen == [(torch.bfloat16, False), (training, True)]
        assert [n for n, p in model.roi_heads.named_parameters() if p.grad is None] == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("name", ZOO)
def test_trains_on_cuda_as_on_cpu(name):
    cfg = config(name)
    inputs = batch(cfg)
    model = detector(cfg)
    losses, trained, _ = train_heads(model, inputs)
    model = model.cuda()
    for x in inputs:
        x["proposals"], x["instances"] = x["proposals"].to("cuda"), x["instances"].to("cuda")
    cuda_losses, cuda_trained, _ = train_heads(model, inputs)
    for key in losses:
        torch.testing.assert_close(cuda_losses[key].cpu(), losses[key], rtol=1e-2, atol=1e-3)


# ---- two processes -----------------------------------------------------------------------------


def _precomputed():
    """A detector without an RPN, so that proposals are the same everywhere."""
    return detector(config("fpn", "MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals"))


def _rank(rank, inputs, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    model = _precomputed()
    wrapped = DistributedDataParallel(model)
    with EventStorage():
        sum(wrapped([inputs[rank]]).values()).backward()
    torch.save(gradients(model), f"{folder}/{rank}.pth")
    dist.destroy_process_group()


def test_two_processes_give_the_gradients_of_one(tmp_path):
    torch.set_num_threads(1)
    inputs = batch(config("fpn"), (3, 0))
    torch.multiprocessing.spawn(_rank, (inputs, str(tmp_path)), nprocs=2)
    model = _precomputed()
    with EventStorage():
        sum(model(inputs).values()).backward()
    for rank in range(2):
        assert_same(torch.load(tmp_path / f"{rank}.pth"), gradients(model))


# ---- every key reaches the selection ------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"nms_thresh": 0.3},
        {"nms_scope": "agnostic", "nms_thresh": 0.3},
        {"max_fg_fraction": 0.25},
        {"max_neg_per_pos": 1},
        {"max_neg_per_pos": 1, "min_neg_per_image": 14},
        {"rank_cls_weight": 0.01},
        {"rank_loc_weight": 0.0},
    ],
)
def test_a_key_changes_what_is_mined_as_the_reference_says(settings):
    cfg = config("fpn", "MODEL.ROI_HEADS.NUM_CLASSES", 3, budget=24, ohem=settings)
    model, inputs = detector(cfg), batch(cfg)
    _, mined, _ = train_heads(model, inputs)
    all_cfg = config(
        "fpn", "MODEL.ROI_HEADS.NUM_CLASSES", 3, budget=500, ohem={"nms_scope": "none"}
    )
    everything = detector(all_cfg)
    everything.load_state_dict(model.state_dict())
    _, rois, _ = train_heads(everything, inputs)
    _, defaults, _ = train_heads(
        detector(config("fpn", "MODEL.ROI_HEADS.NUM_CLASSES", 3, budget=24)), inputs
    )
    changed = False
    with torch.no_grad():
        features = model.backbone(model.preprocess_image(inputs).tensor)
        for i, (image, by_default) in enumerate(zip(rois, defaults)):
            maps = {name: f[i : i + 1] for name, f in features.items()}
            predictor, predictions = model.roi_heads.score_rois(maps, [image])
            losses = per_roi_losses(predictor, predictions, [image])
            ranking = (
                settings.get("rank_cls_weight", 1.0) * losses["loss_cls"]
                + settings.get("rank_loc_weight", 1.0) * losses["loss_box_reg"]
            ).tolist()
            boxes, classes = image.proposal_boxes.tensor.numpy(), image.gt_classes.tolist()
            agnostic = settings.get("nms_scope") == "agnostic"
            groups = [0] * len(classes) if agnostic else classes
            kept = reference.nms(ranking, boxes, groups, settings.get("nms_thresh", 0.7))
            places = reference.cut(
                [classes[k] < 3 for k in kept],
                24,
                settings.get("max_fg_fraction", 1.0),
                settings.get("max_neg_per_pos", -1),
                settings.get("min_neg_per_image", 0),
            )
            expected = image.proposal_boxes.tensor[[kept[p] for p in places]]
            found = mined[i].proposal_boxes.tensor
            assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, expected.tolist()))
            theirs = by_default.proposal_boxes.tensor
            changed |= len(found) != len(theirs) or not torch.equal(found, theirs)
    assert changed


def test_extra_arguments_of_a_users_heads_are_passed_on():
    class Heads(StandardROIHeads):
        def forward(self, images, features, proposals, targets=None, *, scale=1.0):
            proposals, losses = super().forward(images, features, proposals, targets)
            return proposals, {k: scale * v for k, v in losses.items()}

    class OHEMHeads(OHEMMixin, Heads):
        pass

    cfg = config("fpn")
    model = detector(cfg)
    model.roi_heads.__class__ = OHEMHeads
    inputs = batch(cfg)
    with EventStorage():
        _, once = model.roi_heads(*roi_inputs(model, inputs))
        _, twice = model.roi_heads(*roi_inputs(model, inputs), scale=2.0)
    for name in once:
        torch.testing.assert_close(2 * once[name], twice[name])


def test_max_candidates_of_proposals_without_objectness_names_the_key():
    cfg = config("fpn", ohem={"max_candidates": 20})
    model, inputs = detector(cfg), batch(cfg)
    for x in inputs:
        x["proposals"].remove("objectness_logits")
    with pytest.raises(ValueError, match="MAX_CANDIDATES = 20"):
        train_heads(model, inputs)
