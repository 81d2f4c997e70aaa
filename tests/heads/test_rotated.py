import contextlib
import types

import pytest
import rotated_ops
import torch
from detectron2.modeling.roi_heads import RROIHeads
from detectron2.structures import RotatedBoxes
from detectron2.utils.events import EventStorage
from models import batch, config, detector, gradients, roi_inputs
from steps import Fixed, assert_same, boxes_of

from ohem_d2 import OHEMMixin, OHEMROIHeads, OHEMRROIHeads, per_roi_losses
from ohem_d2.mining.selection import nms_by_loss
from ohem_d2.tools.keys import config_faults

COMPILED = hasattr(torch.ops.detectron2, "nms_rotated")
WITHOUT = "Detectron2 was installed without its compiled part, which rotated boxes need"

OPERATORS = (
    "box_iou_rotated",
    "nms_rotated",
    "roi_align_rotated_forward",
    "roi_align_rotated_backward",
)


@pytest.fixture(params=["Python", "compiled"])
def operators(request, monkeypatch):
    """Detectron2's operators, and the stand-ins for them."""
    if request.param == "compiled":
        if not COMPILED:
            pytest.skip(WITHOUT)
    else:
        stand_ins = {name: getattr(rotated_ops, name) for name in OPERATORS}
        monkeypatch.setattr(torch.ops, "detectron2", types.SimpleNamespace(**stand_ins))
        with contextlib.suppress(ImportError):
            from detectron2 import _C  # where v0.6 looks for them

            for name in OPERATORS:
                monkeypatch.setattr(_C, name, stand_ins[name], raising=False)
    return request.param


def rotated_config(*overrides, **kwargs):
    return config(
        "fpn",
        *("MODEL.ROI_HEADS.NAME", "OHEMRROIHeads", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0),
        *("MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIAlignRotated"),
        *("MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS", (10.0, 10.0, 5.0, 5.0, 1.0)),
        *("MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO", 1, "TEST.DETECTIONS_PER_IMAGE", 5),
        *("MODEL.ROI_HEADS.NUM_CLASSES", 3),
        *overrides,
        **kwargs,
    )


def turned(boxes, seed):
    """Upright boxes, turned about their centers."""
    generator = torch.Generator().manual_seed(seed)
    xy = (boxes[:, :2] + boxes[:, 2:]) / 2
    angles = 90 * torch.rand(len(boxes), 1, generator=generator) - 45
    return RotatedBoxes(torch.cat([xy, boxes[:, 2:] - boxes[:, :2], angles], dim=1))


def rotated_batch(cfg, num_objects=(3, 4)):
    inputs = batch(cfg, num_objects, num_proposals=40)
    for i, x in enumerate(inputs):
        target, proposals = x["instances"], x["proposals"]
        target.gt_boxes = turned(target.gt_boxes.tensor, i)
        boxes = turned(proposals.proposal_boxes.tensor, i + 10)
        for k in range(10 if len(target) else 0):  # some at objects
            boxes.tensor[k] = target.gt_boxes.tensor[k % len(target)]
            boxes.tensor[k] += torch.tensor([1.0, -1.0, 2.0, 2.0, 3.0]) * k / 5
        proposals.proposal_boxes = boxes
    return inputs


def train_heads(model, inputs):
    trained = []
    seam = model.roi_heads.label_and_sample_proposals
    model.roi_heads.label_and_sample_proposals = lambda *args: (
        trained.append(seam(*args)) or trained[-1]
    )
    model.zero_grad()
    with EventStorage() as storage:
        _, losses = model.roi_heads(*roi_inputs(model, inputs))
        sum(losses.values()).backward()
    del model.roi_heads.label_and_sample_proposals
    return losses, trained[0], storage.latest()


def loops(losses, boxes, groups, thresh):
    """NMS by loss, RoI by RoI."""
    kept = []
    for i in sorted(range(len(losses)), key=lambda i: -losses[i]):
        rivals = [j for j in kept if groups[j] == groups[i]]
        if all(not rotated_ops.iou(boxes[i], boxes[j]) > thresh for j in rivals):
            kept.append(i)
    return kept


@pytest.mark.parametrize(
    "boxes, expected",
    [
        (((10, 10, 8, 4, 0), (10, 10, 8, 4, 0)), 1.0),
        (((10, 10, 8, 4, 30), (10, 10, 4, 8, 120)), 1.0),
        (((10, 10, 4, 4, 0), (12, 10, 4, 4, 0)), 1 / 3),
        # a square and the one on its corners: an octagon of side 2 (sqrt(2) - 1)
        (((5, 5, 2, 2, 0), (5, 5, 2, 2, 45)), 1 / 2**0.5),
        (((5, 5, 2, 2, 0), (50, 5, 2, 2, 45)), 0.0),
        (((0, 0, 0, 0, 0), (0, 0, 0, 0, 0)), 0.0),
    ],
)
def test_overlap_of_the_stand_ins(boxes, expected):
    assert rotated_ops.iou(*boxes) == pytest.approx(expected, abs=1e-6)


@pytest.mark.skipif(not COMPILED, reason=WITHOUT)
def test_stand_ins_are_the_compiled_operators():
    boxes = rotated_batch(rotated_config())[0]["proposals"].proposal_boxes.tensor
    ops, scores = torch.ops.detectron2, torch.rand(len(boxes))
    torch.testing.assert_close(
        rotated_ops.box_iou_rotated(boxes, boxes[:9]), ops.box_iou_rotated(boxes, boxes[:9])
    )
    kept = rotated_ops.nms_rotated(boxes, scores, 0.3)
    assert kept.tolist() == ops.nms_rotated(boxes, scores, 0.3).tolist()
    features = torch.randn(1, 2, 24, 32)
    rois = torch.cat([torch.zeros(len(boxes), 1), boxes], dim=1)
    # Beyond the border the operator clamps, and the stand-in finds zeros.
    x, y, w, h = rois[:, 1:5].unbind(dim=1)
    reach = (w.square() + h.square()).sqrt() / 2 + 2
    inside = (x > reach) & (x < 128 - reach) & (y > reach) & (y < 96 - reach)
    assert inside.sum() > 3
    rois = rois[inside]
    arguments = (features, rois, 0.25, 7, 7, 1)
    torch.testing.assert_close(
        rotated_ops.roi_align_rotated_forward(*arguments),
        ops.roi_align_rotated_forward(*arguments),
        rtol=1e-3,
        atol=1e-3,
    )


@pytest.mark.parametrize("scope", ["class", "agnostic", "none"])
def test_nms_by_loss_is_that_of_the_loops(scope, operators):
    inputs = rotated_batch(rotated_config())
    boxes = torch.cat([x["proposals"].proposal_boxes.tensor for x in inputs])
    image_index = torch.arange(2).repeat_interleave(40)
    gt_classes = torch.randint(0, 3, (80,))
    losses = torch.rand(80)
    losses[7] = float("nan")
    found = nms_by_loss(
        losses,
        boxes,
        gt_classes,
        image_index,
        nms_thresh=0.5,
        nms_scope=scope,
    )
    losses[7] = float("inf")
    groups = {
        "class": list(zip(image_index.tolist(), gt_classes.tolist())),
        "agnostic": image_index.tolist(),
        "none": list(range(80)),
    }[scope]
    expected = loops(losses.tolist(), boxes.tolist(), groups, 0.5)
    assert found.tolist() == expected and found[0] == 7
    assert scope == "none" or len(expected) < 80


def test_trains_on_the_mined_batch(operators, storage):
    """Remade by hand from the plain heads on all RoIs; losses and gradients are the parent's."""
    cfg = rotated_config(budget=8)
    ours, plain = detector(cfg), detector(rotated_config("MODEL.ROI_HEADS.NAME", "RROIHeads"))
    plain.load_state_dict(ours.state_dict(), strict=True)
    inputs = rotated_batch(cfg)
    losses, trained, events = train_heads(ours, inputs)
    assert [len(image) for image in trained] == [8, 8]
    assert events["ohem/num_candidates"][0] == 43.5
    seen = []
    plain.roi_heads.box_predictor.register_forward_hook(lambda *args: seen.append(args[2]))
    with Fixed(plain.roi_heads, [slice(None)] * 2):
        _, everything, _ = train_heads(plain, inputs)
    assert any((image.gt_classes < 3).any() for image in everything)
    predictions = [p.detach() for p in seen[0]]
    ranking = per_roi_losses(plain.roi_heads.box_predictor, predictions, everything)
    for name, loss in plain.roi_heads.box_predictor.losses(predictions, everything).items():
        torch.testing.assert_close(ranking[name].mean(), loss)
    ranking = sum(ranking.values()).split([len(image) for image in everything])
    chosen = [
        loops(loss.tolist(), boxes.tolist(), image.gt_classes.tolist(), 0.7)[:8]
        for loss, boxes, image in zip(ranking, boxes_of(everything), everything)
    ]
    for hard, boxes, index in zip(boxes_of(trained), boxes_of(everything), chosen):
        torch.testing.assert_close(hard, boxes[index])
    with Fixed(plain.roi_heads, [torch.tensor(index) for index in chosen]):
        plain_losses, _, _ = train_heads(plain, inputs)
    assert_same(losses, plain_losses)
    assert_same(gradients(ours), gradients(plain))


def test_predicts_as_the_plain_heads(operators):
    cfg = rotated_config()
    ours = detector(cfg).eval()
    plain = detector(rotated_config("MODEL.ROI_HEADS.NAME", "RROIHeads")).eval()
    inputs = rotated_batch(cfg)
    for x in inputs:
        x["proposals"] = x["proposals"][:8]
    results = []
    with torch.no_grad():
        for model in (ours, plain):
            images, features, proposals, _ = roi_inputs(model, inputs)
            results.append(model.roi_heads(images, features, proposals)[0])
    for a, b in zip(*results):
        assert len(a) == 5 and torch.equal(a.pred_boxes.tensor, b.pred_boxes.tensor)
        assert torch.equal(a.scores, b.scores)


def test_nothing_to_mine(operators):
    cfg = rotated_config()
    model, inputs = detector(cfg), rotated_batch(cfg, (0, 0))
    losses, trained, _ = train_heads(model, inputs)
    assert all((image.gt_classes == 3).all() and len(image) == 16 for image in trained)
    assert [n for n, p in model.roi_heads.named_parameters() if p.grad is None] == []


def test_screening_is_refused(operators):
    with pytest.raises(ValueError, match="SCREENING = 2.0 needs a box head"):
        detector(rotated_config(ohem={"screening": 2.0}))


@pytest.mark.parametrize("base", [OHEMMixin, OHEMRROIHeads])
def test_heads_of_ones_own_with_rotated_boxes(base, operators):
    class Mine(base, RROIHeads):
        pass

    cfg = rotated_config(budget=8)
    model, inputs = detector(cfg), rotated_batch(cfg)
    expected = train_heads(model, inputs)[1]
    model.roi_heads.__class__ = Mine
    for a, b in zip(train_heads(model, inputs)[1], expected):
        assert torch.equal(a.proposal_boxes.tensor, b.proposal_boxes.tensor)


def test_pictures_are_of_upright_boxes(operators, storage):
    cfg = rotated_config("VIS_PERIOD", 1)
    model = detector(cfg)
    model.roi_heads(*roi_inputs(model, rotated_batch(cfg)))
    assert model.roi_heads.watcher is not None and storage._vis_data == []


def test_without_the_compiled_part(monkeypatch):
    """Our tools say it before a training begins; with the operators there is nothing to say."""
    cfg, said = rotated_config(), "has rotated boxes, which need Detectron2's compiled ops"
    ops = {"nms_rotated": rotated_ops.nms_rotated}
    for found, told in ((ops, False), ({}, True)):
        monkeypatch.setattr(torch.ops, "detectron2", types.SimpleNamespace(**found))
        assert any(said in fault for fault in config_faults(cfg)) == told
        assert not any(said in fault for fault in config_faults(config("fpn")))
    assert not issubclass(OHEMRROIHeads, OHEMROIHeads)
