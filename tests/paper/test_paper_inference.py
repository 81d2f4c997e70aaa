"""Multi-scale testing and iterative box regression with voting, on small detectors."""

import copy
import functools
import pickle

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, DatasetMapper, build_detection_test_loader
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.roi_heads import (
    FastRCNNOutputLayers,
)
from detectron2.structures import Boxes, BoxMode, Instances
from models import batch, config, detector
from test_paper_box_voting import reference_nms, reference_vote
from torch.nn.functional import interpolate

from projects.paper.ohem_paper.inference.model import RCNNWithTestTimeExtras, with_test_time_extras
from projects.paper.ohem_paper.inference.views import views
from projects.paper.ohem_paper.settings import BoxVoting, MultiScale

PRECOMPUTED = [
    *("MODEL.LOAD_PROPOSALS", True),
    *("MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals"),
]
# The size of the images, 96 x 128, and one beside it on either hand, one of another aspect
SCALES = MultiScale(True, min_sizes=(72, 96, 100), max_size=400)


def make(name="fpn", *overrides, plain=True, precomputed=True):
    """A model in evaluation whose detections are many and differ, and inputs for it."""
    cfg = config(name, *(PRECOMPUTED if precomputed else ()), *overrides, plain=plain)
    MultiScale.add_to(cfg)
    BoxVoting.add_to(cfg)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.2
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 50
    model = detector(cfg).eval()
    inputs = batch(cfg)
    for record in inputs:
        record.pop("instances")

    def spread(layer, x, out, std):
        layer.weight *= std / out.std()
        return layer.forward(x[0])

    handles = []
    predictor = model.roi_heads.box_predictor
    for layer, std in ((predictor.cls_score, 1.5), (predictor.bbox_pred, 1.0)):
        torch.nn.init.normal_(layer.weight)
        handles.append(layer.register_forward_hook(functools.partial(spread, std=std)))
    run(model, inputs)
    for handle in handles:
        handle.remove()
    return cfg, model, inputs


def run(model, inputs):
    with torch.no_grad():
        return [out["instances"] for out in model(inputs)]


def assert_equal(found, expected):
    """Bit for bit."""
    assert len(found) == len(expected)
    for a, b in zip(found, expected):
        assert a.image_size == b.image_size and set(a.get_fields()) == set(b.get_fields())
        for name, value in b.get_fields().items():
            left, right = a.get(name), value
            if isinstance(value, Boxes):
                left, right = left.tensor, right.tensor
            assert torch.equal(left, right), name


def assert_close(found, expected, tol=1e-3):
    """Boxes, scores and classes, in any order of equal scores."""
    assert len(found) == len(expected)
    for a, (boxes, scores, classes) in zip(found, expected):
        assert len(a) == len(scores) > 0
        left = np.column_stack([a.pred_classes, a.scores, a.pred_boxes.tensor])
        right = np.column_stack([classes, scores, boxes])
        left, right = (x[np.lexsort(x.round(3).T[::-1])] for x in (left, right))
        np.testing.assert_allclose(left, right, rtol=0, atol=tol)


def raw(model, inputs):
    """
    All that the plain model finds, before NMS and any cut: boxes, scores and classes for each
    image, through its own inference.
    """
    last = model.roi_heads.box_predictor
    before = last.test_nms_thresh, last.test_topk_per_image
    last.test_nms_thresh, last.test_topk_per_image = 1.0, -1
    try:
        with torch.no_grad():
            found = model.inference(inputs, do_postprocess=False)
    finally:
        last.test_nms_thresh, last.test_topk_per_image = before
    return [(r.pred_boxes.tensor.numpy(), r.scores.numpy(), r.pred_classes.numpy()) for r in found]


def iterated(model, record):
    """R1 and R2 of one image, from the plain model, class by class."""
    first = raw(model, [record])[0]
    parts = [first]
    for c in np.unique(first[2]):
        again = dict(record)
        again["proposals"] = Instances(
            record["image"].shape[-2:], proposal_boxes=Boxes(first[0][first[2] == c])
        )
        found = raw(model, [again])[0]
        parts.append(tuple(column[found[2] == c] for column in found))
    return tuple(np.concatenate(columns) for columns in zip(*parts))


def resized(record, size):
    """By other means than the wrapper: the image, and the proposals with it."""
    image, (height, width) = record["image"], record["image"].shape[-2:]
    new = dict(record)
    new["image"] = interpolate(image[None], size, mode="bilinear", align_corners=False)[0]
    boxes = record["proposals"].proposal_boxes.clone()
    boxes.scale(size[1] / width, size[0] / height)
    new["proposals"] = Instances(size, proposal_boxes=boxes)
    return new


HEADS = [("fpn", True), ("fpn", False), ("dc5", True), ("c4", False)]


# ---- off: nothing changes ----------------------------------------------------------------------


def test_off_by_default():
    cfg, model, _ = make()
    assert with_test_time_extras(cfg, model) is model
    assert with_test_time_extras(get_cfg(), model) is model


@pytest.mark.parametrize("precomputed", [True, False])
@pytest.mark.parametrize(("name", "plain"), HEADS)
def test_one_scale_without_voting_is_the_plain_model(name, plain, precomputed):
    _, model, inputs = make(name, plain=plain, precomputed=precomputed)
    inputs[0].update(height=200, width=150)
    expected = run(model, inputs)
    assert all(len(e) > 0 for e in expected)
    assert_equal(run(RCNNWithTestTimeExtras(model).eval(), inputs), expected)
    one_scale = MultiScale(True, min_sizes=(96,))
    before = copy.deepcopy(inputs)
    found = run(RCNNWithTestTimeExtras(model, multi_scale=one_scale).eval(), inputs)
    assert_equal(found, expected)
    for record, old in zip(inputs, before):  # nor are the inputs changed
        assert torch.equal(record["image"], old["image"])
        boxes = record["proposals"].proposal_boxes.tensor
        assert torch.equal(boxes, old["proposals"].proposal_boxes.tensor)


def test_images_of_several_sizes_and_without_height_are_the_plain_models():
    _, model, inputs = make()
    inputs[1] = resized(inputs[1], (64, 100))
    del inputs[1]["height"], inputs[1]["width"]
    size = MultiScale(True, min_sizes=())
    assert_equal(
        run(RCNNWithTestTimeExtras(model, multi_scale=size).eval(), inputs), run(model, inputs)
    )


# ---- +B -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "plain", "agnostic"),
    [
        *(("fpn", True, False), ("fpn", False, False), ("fpn", True, True)),
        *(("c4", False, False), ("dc5", True, False)),
    ],
)
def test_box_voting(name, plain, agnostic):
    _, model, inputs = make(name, "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", agnostic, plain=plain)
    expected = []
    for record in inputs:
        r1_and_r2 = iterated(model, record)
        assert len(r1_and_r2[0]) > len(raw(model, [record])[0][0])
        kept = reference_nms(*r1_and_r2, 0.3)[:100]
        boxes = reference_vote(*r1_and_r2, kept, 0.5)
        assert np.abs(boxes - r1_and_r2[0][kept]).max() > 1
        expected.append((boxes, r1_and_r2[1][kept], r1_and_r2[2][kept]))
    extras = RCNNWithTestTimeExtras(model, box_voting=BoxVoting(True)).eval()
    assert_close(run(extras, inputs), expected)


def test_voting_alone():
    _, model, inputs = make()
    voting = BoxVoting(True, iterations=1, nms_thresh=0.6, vote_thresh=0.4)
    expected = []
    for found in raw(model, inputs):
        kept = reference_nms(*found, 0.6)[:100]
        expected.append((reference_vote(*found, kept, 0.4), found[1][kept], found[2][kept]))
    assert_close(run(RCNNWithTestTimeExtras(model, box_voting=voting).eval(), inputs), expected)


def test_boxes_are_rescored_no_more_at_a_time_than_there_are_proposals(monkeypatch):
    _, model, inputs = make()
    for record in inputs:
        record["proposals"] = record["proposals"][:10]
    model.roi_heads.box_predictor.test_score_thresh = 0.01
    sizes = []
    model.roi_heads.box_head.register_forward_hook(lambda _, x, y: sizes.append(len(y)))
    run(RCNNWithTestTimeExtras(model, box_voting=BoxVoting(True)).eval(), inputs)
    # both images at first, then each alone, and 10 boxes have up to 30 candidates
    assert sizes[0] == 20 and max(sizes[1:]) == 10 and sum(sizes[1:]) > 20


# ---- +M -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "plain"), [("fpn", True), ("c4", False)])
@pytest.mark.parametrize("voting", [False, True])
def test_multi_scale(name, plain, voting):
    _, model, inputs = make(name, plain=plain)
    inputs[0].update(height=192, width=192)  # twice as high and one and a half times as wide
    expected = []
    for record in inputs:
        parts = []
        for size in ((72, 96), (96, 128), (100, 133)):
            scaled = resized(record, size)
            boxes, *others = iterated(model, scaled) if voting else raw(model, [scaled])[0]
            parts.append((boxes / np.tile([size[1] / 128, size[0] / 96], 2), *others))
        found = tuple(np.concatenate(columns) for columns in zip(*parts))
        thresh = 0.3 if voting else model.roi_heads.box_predictor.test_nms_thresh
        kept = reference_nms(*found, thresh)[:100]
        boxes = reference_vote(*found, kept, 0.5) if voting else found[0][kept]
        boxes = boxes * np.tile([record["width"] / 128, record["height"] / 96], 2)
        expected.append((boxes, found[1][kept], found[2][kept]))
    extras = RCNNWithTestTimeExtras(model, multi_scale=SCALES, box_voting=BoxVoting(voting))
    found = run(extras.eval(), inputs)
    assert found[0].image_size == (192, 192)
    assert_close(found, expected)


def test_sizes_that_the_cap_makes_equal_are_run_once():
    _, model, inputs = make()
    inputs[1] = resized(inputs[1], (96, 96))
    sizes = []
    model.backbone.register_forward_hook(lambda _, x, y: sizes.append(tuple(x[0].shape)))
    capped = MultiScale(True, min_sizes=(64, 96, 128), max_size=128)
    run(RCNNWithTestTimeExtras(model, multi_scale=capped).eval(), inputs)
    # 64 x 85 and 64 x 64; 96 x 128 and 96 x 96; 128 x 128 alone; padded to multiples of 32
    assert sizes == [(2, 3, 64, 96), (2, 3, 96, 128), (1, 3, 128, 128)]


@pytest.mark.parametrize("size", [(96, 128), (75, 41), (33, 400)])
@pytest.mark.parametrize(("short", "cap"), [(60, 1000), (600, 1000), (50, 90)])
def test_images_are_resized_as_by_the_data_loader(size, short, cap):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    record = {"image": torch.as_tensor(image.transpose(2, 0, 1).copy())}
    (view,) = views(size, MultiScale(True, (short,), cap))
    found = view.of_record(record)["image"]
    expected = ResizeShortestEdge(short, cap).get_transform(image).apply_image(image)
    assert torch.equal(found, torch.as_tensor(expected.transpose(2, 0, 1).copy()))


def test_rpn_proposes_at_every_scale():
    _, model, inputs = make(precomputed=False)
    for record in inputs:
        del record["proposals"]
    sizes = []
    model.proposal_generator.register_forward_hook(lambda _, x, y: sizes.append(x[0].image_sizes))
    found = run(RCNNWithTestTimeExtras(model, multi_scale=SCALES).eval(), inputs)
    assert sizes == [[(72, 96)] * 2, [(96, 128)] * 2, [(100, 133)] * 2]
    assert all(len(f) > 0 for f in found)


def test_no_random_state_is_drawn_from():
    _, model, inputs = make()
    extras = RCNNWithTestTimeExtras(model, multi_scale=SCALES, box_voting=BoxVoting(True)).eval()
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    found = run(extras, inputs)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    assert_equal(run(extras, inputs), found)


# ---- other branches, other heads ---------------------------------------------------------------


def test_predictors_and_models_of_another_kind_are_named():
    class OwnPredictor(FastRCNNOutputLayers):
        def inference(self, predictions, proposals):
            return super().inference(predictions, proposals)

    class OwnModel(GeneralizedRCNN):
        def inference(self, *args, **kwargs):
            return super().inference(*args, **kwargs)

    _, model, _ = make()
    model.__class__ = OwnModel
    with pytest.raises(TypeError, match="; not OwnModel"):
        RCNNWithTestTimeExtras(model)
    model.__class__ = GeneralizedRCNN
    model.roi_heads.box_predictor.__class__ = OwnPredictor
    with pytest.raises(TypeError, match="StandardROIHeads has OwnPredictor"):
        RCNNWithTestTimeExtras(model)
    with pytest.raises(TypeError, match="; not Linear"):
        RCNNWithTestTimeExtras(torch.nn.Linear(1, 1))


@pytest.mark.parametrize("name", ["mask", "keypoint", "c4", "cascade"])
def test_detectors_of_another_kind_are_named(name):
    model = detector(config(name, plain=True))
    if name == "cascade":
        model.roi_heads.mask_on = False
    message = "boxes alone" if name in ("mask", "keypoint") else "ROIHeads scores boxes in another"
    with pytest.raises(TypeError, match=message):
        RCNNWithTestTimeExtras(model)


# ---- little and bad input -----------------------------------------------------------------------


def test_nothing_proposed_and_nothing_detected():
    _, model, inputs = make()
    extras = RCNNWithTestTimeExtras(model, multi_scale=SCALES, box_voting=BoxVoting(True)).eval()
    fields = set(run(extras, inputs)[0].get_fields())
    inputs[0]["proposals"] = inputs[0]["proposals"][:0]
    found = run(extras, inputs)
    assert len(found[0]) == 0 < len(found[1])
    inputs[1]["proposals"] = inputs[1]["proposals"][:0]
    assert [len(f) for f in run(extras, inputs)] == [0, 0]
    _, _, inputs = make()
    model.roi_heads.box_predictor.test_score_thresh = 0.9999
    for f in run(extras, inputs):
        assert len(f) == 0 and set(f.get_fields()) == fields and f.image_size == (96, 128)


def test_predictions_that_are_not_finite_are_no_detections():
    _, model, inputs = make()
    extras = RCNNWithTestTimeExtras(model).eval()
    model.roi_heads.box_head.register_forward_hook(
        lambda _, x, y: y.masked_fill(torch.arange(len(y))[:, None] % 3 == 0, float("nan"))
    )
    expected = run(model, inputs)
    assert all(len(e) > 0 for e in expected)
    assert_equal(run(extras, inputs), expected)
    extras.box_voting = BoxVoting(True)
    for f in run(extras, inputs):
        assert len(f) > 0 and torch.isfinite(f.pred_boxes.tensor).all()


def test_missing_and_foreign_proposals_are_named():
    _, model, inputs = make()
    extras = RCNNWithTestTimeExtras(model).eval()
    inputs[0]["file_name"] = "street.jpg"
    proposals = inputs[0].pop("proposals")
    with pytest.raises(ValueError, match="street.jpg.*MODEL.LOAD_PROPOSALS.*PROPOSAL_FILES_TEST"):
        extras(inputs)
    inputs[0]["proposals"] = Instances((50, 60), **proposals.get_fields())
    with pytest.raises(ValueError, match=r"street.jpg.*\(50, 60\), and it has \(96, 128\)"):
        extras(inputs)


def test_it_is_for_evaluation():
    _, model, inputs = make()
    with pytest.raises(AssertionError, match="call eval"):
        RCNNWithTestTimeExtras(model).train()(inputs)


# ---- configuration ------------------------------------------------------------------------------


def test_by_configuration(tmp_path):
    cfg, model, inputs = make()
    file = tmp_path / "extras.yaml"
    file.write_text(
        "TEST:\n"
        "  MULTI_SCALE: {ENABLED: True, MIN_SIZES: [72, 96], MAX_SIZE: 400}\n"
        "  BOX_VOTING: {ENABLED: True, ITERATIONS: 3, NMS_THRESH: 0.4, VOTE_THRESH: 0.6}\n"
    )
    cfg.merge_from_file(str(file))
    extras = with_test_time_extras(cfg, model)
    assert tuple(extras.multi_scale.min_sizes) == (72, 96)
    assert extras.multi_scale.max_size == 400
    assert extras.box_voting == BoxVoting(True, 3, 0.4, 0.6)
    expected = RCNNWithTestTimeExtras(
        model,
        multi_scale=MultiScale(True, (72, 96), 400),
        box_voting=BoxVoting(True, 3, 0.4, 0.6),
    )
    assert_equal(run(extras.eval(), inputs), run(expected.eval(), inputs))
    cfg.TEST.MULTI_SCALE.ENABLED = False
    assert not with_test_time_extras(cfg, model).multi_scale.enabled
    cfg.TEST.BOX_VOTING.ENABLED = False
    assert with_test_time_extras(cfg, model) is model


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MULTI_SCALE.ENABLED", 1),
        ("MULTI_SCALE.MAX_SIZE", 0),
        ("MULTI_SCALE.MIN_SIZES", (480, 0)),
        ("MULTI_SCALE.MIN_SIZES", (480, 1200)),
        ("MULTI_SCALE.MIN_SIZES", 480),
        ("BOX_VOTING.ENABLED", "on"),
        ("BOX_VOTING.ITERATIONS", 0),
        ("BOX_VOTING.ITERATIONS", 1.5),
        ("BOX_VOTING.NMS_THRESH", 1.5),
        ("BOX_VOTING.VOTE_THRESH", float("nan")),
        ("BOX_VOTING.VOTE_THRESH", True),
    ],
)
def test_bad_values_are_named_even_when_off(key, value):
    cfg, model, _ = make()
    node, name = key.split(".")
    cfg.TEST[node][name] = value
    with pytest.raises(ValueError, match=f"TEST.{key} = .*; allowed: "):
        with_test_time_extras(cfg, model)


class Collect(DatasetEvaluator):
    def reset(self):
        self.seen = []

    def process(self, inputs, outputs):
        self.seen += [(x, y["instances"]) for x, y in zip(inputs, outputs)]

    def evaluate(self):
        return self.seen


def test_evaluation_of_a_data_set_with_a_proposal_file(tmp_path):
    """Through Detectron2's loader and evaluation loop, each scale made of the original pixels."""
    cfg, model, inputs = make()
    records, proposals = [], {"ids": [], "boxes": [], "objectness_logits": []}
    for i, record in enumerate(inputs):
        file = str(tmp_path / f"{i}.png")
        cv2.imwrite(file, record["image"].numpy().transpose(1, 2, 0).astype(np.uint8))
        records.append({"file_name": file, "image_id": i, "height": 96, "width": 128})
        proposals["ids"].append(i)
        proposals["boxes"].append(record["proposals"].proposal_boxes.tensor.numpy())
        proposals["objectness_logits"].append(record["proposals"].objectness_logits.numpy())
    proposals["bbox_mode"] = BoxMode.XYXY_ABS
    (tmp_path / "proposals.pkl").write_bytes(pickle.dumps(proposals))
    DatasetCatalog.register("test_time", lambda: records)
    try:
        cfg.merge_from_list(
            [
                *("DATASETS.PROPOSAL_FILES_TEST", (str(tmp_path / "proposals.pkl"),)),
                *("DATASETS.TEST", ("test_time",)),
                *("INPUT.MIN_SIZE_TEST", 0),
                *("DATALOADER.NUM_WORKERS", 0),
                *("TEST.MULTI_SCALE.ENABLED", True),
                *("TEST.MULTI_SCALE.MIN_SIZES", (72, 96, 120)),
                *("TEST.BOX_VOTING.ENABLED", True),
            ]
        )
        extras = with_test_time_extras(cfg, model).train()
        loader = build_detection_test_loader(cfg, "test_time")
        seen = inference_on_dataset(extras, loader, Collect())
    finally:
        DatasetCatalog.remove("test_time")
    assert extras.training and len(seen) == 2
    for record, found in seen:
        assert record["image"].shape == (3, 96, 128) and record["image"].dtype == torch.uint8
        assert len(found) > 0 and found.image_size == (96, 128)
    expected = run(extras.eval(), [record for record, _ in seen[:1]])
    assert_equal([seen[0][1]], expected)


# ---- +M in training: Detectron2's own -----------------------------------------------------------


def test_multi_scale_training_scales_precomputed_proposals(tmp_path, storage):
    height, width = 60, 90
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = str(tmp_path / "image.png")
    assert cv2.imwrite(file, image)
    proposals = np.array([[10.0, 5, 50, 45], [20, 10, 80, 50], [0, 0, 90, 60]])
    record = {
        "file_name": file,
        "height": height,
        "width": width,
        "annotations": [
            {"bbox": [10.0, 5, 50, 45], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1}
        ],
        "proposal_boxes": proposals,
        "proposal_objectness_logits": np.array([3.0, 2.0, 1.0]),
        "proposal_bbox_mode": BoxMode.XYXY_ABS,
    }
    sizes = (48, 57, 68, 86, 90)
    cfg = config("fpn", *PRECOMPUTED)
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = sizes, "choice"
    cfg.INPUT.MAX_SIZE_TRAIN = 120  # a short side of 80, for the two largest
    mapper = DatasetMapper(cfg, is_train=True)
    np.random.seed(0)
    seen = {}
    for _ in range(40):
        new = mapper(record)
        new_height, new_width = new["image"].shape[1:]
        scale = [new_width / width, new_height / height] * 2
        boxes = new["proposals"].proposal_boxes.tensor / torch.tensor(scale)
        flip = abs(boxes[0, 0] - 10) > 1
        if flip:
            boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
        np.testing.assert_allclose(boxes.numpy(), proposals, atol=1e-3)
        assert new["proposals"].image_size == (new_height, new_width)
        # The first proposal lies on the object, at any scale.
        truth = new["instances"].gt_boxes.tensor[0]
        torch.testing.assert_close(new["proposals"].proposal_boxes.tensor[0], truth)
        seen[new_height, bool(flip)] = new
    assert {h for h, _ in seen} == {48, 57, 68, 80} and len(seen) == 8

    losses = detector(cfg)([seen[48, False], seen[80, True]])
    assert torch.isfinite(sum(losses.values()))
