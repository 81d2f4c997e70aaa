import logging
import weakref
from types import SimpleNamespace

import pytest
import reference
import torch
from detectron2.structures import BitMasks, Boxes, pairwise_iou
from detectron2.utils.events import EventStorage
from forked import spawn
from models import ZOO, autocasts_to, batch, config, detector, gradients, roi_inputs
from processes import leave, meet
from steps import Fixed, assert_same, indices_of, logged, pair, train_heads
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ohem_d2 import OHEMSettings, per_roi_losses, sampling_at_random, select_hard_examples


def watched(model):
    """The minings of a model, as they are made."""
    minings = []
    show, due = minings.append, lambda: True
    model.roi_heads.watcher = SimpleNamespace(due=due, show=show)
    return minings


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


@pytest.mark.parametrize("name", ["fpn", "c4", "cascade"])
def test_the_validation_loss_is_that_of_the_parent(name):
    ours, plain, inputs = pair(name, ohem={"cascade_stages": "all"} if name == "cascade" else {})
    mined, _, _ = train_heads(ours, inputs)
    torch.manual_seed(5)
    expected, _, _ = train_heads(plain, inputs)
    torch.manual_seed(5)
    with sampling_at_random(ours):
        losses, _, _ = train_heads(ours, inputs)
    assert_same(losses, expected)
    assert sum(mined.values()) > sum(losses.values())
    with pytest.raises(KeyError), sampling_at_random(ours):
        raise KeyError
    again, _, _ = train_heads(ours, inputs)  # mines again, after an error as well
    assert_same(again, mined)


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


@pytest.mark.parametrize("num_proposals", [1000, 5000])
def test_peak_memory_is_bounded_by_the_chunk(num_proposals):
    model = detector(config("fpn", ohem={"chunk_size": 100}))
    inputs = batch(config("fpn"), num_proposals=num_proposals)
    widest = []
    model.roi_heads.box_head.register_forward_hook(lambda *args: widest.append(len(args[1][0])))
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


def test_proposals_without_the_ground_truth():
    cfg = config("fpn", "MODEL.ROI_HEADS.PROPOSAL_APPEND_GT", False, budget=500)
    model, inputs = detector(cfg), batch(cfg)
    _, trained, storage = train_heads(model, inputs)
    assert storage.latest()["ohem/num_candidates"][0] == 60
    assert all((index < 60).all() for index in indices_of(trained, inputs))


@pytest.mark.parametrize("fraction", [0.0, 0.25, 1.0])
def test_a_quota_is_that_of_the_positive_fraction(fraction):
    """Foreground and background apart, the hardest of each; by hand from all RoIs."""
    overrides = ("MODEL.ROI_HEADS.POSITIVE_FRACTION", fraction)
    model = detector(config("fpn", *overrides, budget=16, ohem={"budget": "quota"}))
    inputs = batch(config("fpn"), (3, 0))
    minings = watched(model)
    _, trained, _ = train_heads(model, inputs)
    (mining,) = minings
    for i, image in enumerate(trained):
        order = [j for j in mining.survivors.tolist() if mining.image_index[j] == i]
        foreground = [j for j in order if mining.is_foreground[j]][: int(16 * fraction)]
        background = [j for j in order if not mining.is_foreground[j]][: 16 - len(foreground)]
        start = 0 if i == 0 else len(mining.rois[0])
        expected = sorted(j - start for j in foreground + background)
        boxes = mining.rois[i].proposal_boxes.tensor[expected]
        assert sorted(map(tuple, image.proposal_boxes.tensor.tolist())) == sorted(
            map(tuple, boxes.tolist())
        )
    of_first = mining.survivors[mining.image_index[mining.survivors] == 0]
    num_foreground = int(mining.is_foreground[of_first].sum())
    assert (trained[0].gt_classes < 80).sum() == min(int(16 * fraction), num_foreground)
    assert num_foreground > 4


def test_a_budget_of_ones_own():
    """The hardest of all images together, as a function from Python."""

    def of_batch(losses, is_foreground, image_index, num_images, num_samples):
        assert (losses.diff() <= 0).all() and num_images == 2 and num_samples == 16
        return torch.arange(len(losses)) < num_images * num_samples

    model = detector(config("fpn", budget=16))
    model.roi_heads.ohem = OHEMSettings(budget=of_batch, nms_scope="none")
    _, trained, _ = train_heads(model, batch(config("fpn"), (3, 0)))
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
    monkeypatch.setattr(logging.getLogger("ohem_d2.monitor.scalars"), "warning", messages.append)
    cfg = config("fpn")
    model, inputs = detector(cfg), batch(cfg)
    bad = Boxes(torch.tensor([[100.0, 60.0, 120.0, 90.0]]))
    inputs[0]["proposals"].proposal_boxes.tensor[10] = bad.tensor[0]
    score = model.roi_heads.score_rois

    def broken(features, proposals):
        predictor, (scores, deltas) = score(features, proposals)
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
    # once, and not for all RoIs as well when they were labelled
    assert logged(storage)["roi_head/num_fg_samples"] == [fg]
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


def test_the_hook_outside_of_forward_says_what_is_missing(storage):
    model = detector(config("fpn"))
    _, _, proposals, targets = roi_inputs(model, batch(config("fpn")))
    with pytest.raises(RuntimeError, match="mines only in forward"):
        model.roi_heads.label_and_sample_proposals(proposals, targets)


def test_start_up_line(monkeypatch):
    lines = []
    monkeypatch.setattr(logging.getLogger("ohem_d2.heads"), "info", lines.append)
    detector(config("c4", ohem={"nms_thresh": 0.6}, budget=32))
    assert len(lines) == 1 and "OHEM is active" in lines[0]
    for part in ("OHEMRes5ROIHeads", "32", "0.6", "class"):
        assert part in lines[0]


@pytest.mark.parametrize("dtype", [torch.bfloat16])
def test_mixed_precision_ranks_in_float32_and_trains_every_parameter(dtype):
    cfg = config("fpn")
    model, inputs = detector(cfg), batch(cfg)
    seen = watched(model)
    arguments = roi_inputs(model, inputs)
    with EventStorage(), torch.autocast("cpu", dtype=dtype):
        _, losses = model.roi_heads(*arguments)
    sum(losses.values()).backward()
    assert {loss.dtype for loss in (*seen[0].losses.values(), seen[0].ranking)} == {torch.float32}
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


@pytest.mark.gpu
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


def _precomputed():
    """A detector without an RPN, so that proposals are the same everywhere."""
    return detector(config("fpn", "MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals"))


def _rank(rank, inputs, folder):
    meet(rank, folder)
    model = _precomputed()
    wrapped = DistributedDataParallel(model)
    with EventStorage():
        sum(wrapped([inputs[rank]]).values()).backward()
    torch.save(gradients(model), f"{folder}/{rank}.pth")
    leave(rank, folder)


def test_two_processes_give_the_gradients_of_one(tmp_path):
    torch.set_num_threads(1)
    inputs = batch(config("fpn"), (3, 0))
    spawn(_rank, inputs, str(tmp_path))
    model = _precomputed()
    with EventStorage():
        sum(model(inputs).values()).backward()
    for rank in range(2):
        assert_same(torch.load(tmp_path / f"{rank}.pth"), gradients(model))


@pytest.mark.parametrize(
    "settings",
    [
        {"nms_thresh": 0.3},
        {"nms_scope": "agnostic", "nms_thresh": 0.3},
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
            expected = image.proposal_boxes.tensor[kept[:24]]
            found = mined[i].proposal_boxes.tensor
            assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, expected.tolist()))
            theirs = by_default.proposal_boxes.tensor
            changed |= len(found) != len(theirs) or not torch.equal(found, theirs)
    assert changed


def test_masks_of_easy_rois_are_never_copied(monkeypatch):
    cfg = config("mask")
    model, inputs = detector(cfg), batch(cfg)
    arguments, copied = roi_inputs(model, inputs), []
    get = BitMasks.__getitem__

    def spy(self, item):
        copied.append(len(item))
        return get(self, item)

    monkeypatch.setattr(BitMasks, "__getitem__", spy)
    with EventStorage():
        model.roi_heads(*arguments)
    assert copied and max(copied) <= 16


def test_nothing_of_a_call_is_held_after_it():
    model = detector(config("fpn"))
    images, features, proposals, targets = roi_inputs(model, batch(config("fpn")))
    held = [weakref.ref(value) for value in (*features.values(), *proposals)]
    with EventStorage(), torch.no_grad():
        model.roi_heads(images, features, proposals, targets)
    del images, features, proposals
    assert all(reference() is None for reference in held)
