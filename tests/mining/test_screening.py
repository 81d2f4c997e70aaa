import copy
from types import SimpleNamespace

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads.box_head import FastRCNNConvFCHead
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from models import batch, config, detector, gradients, roi_inputs
from torch import nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from ohem_d2 import per_roi_losses, select_hard_examples
from ohem_d2.mining.screening import (
    BINS,
    can_screen,
    coarse_pooler,
    coarse_scorer,
    first_linear,
    fold_interpolation,
    most_promising,
)

HEAD = {"conv_dims": [], "fc_dims": [8, 6]}


def test_the_folded_layer_sees_the_interpolation():
    weight, coarse = torch.randn(5, 3 * 49), torch.randn(10, 3, 4, 4)
    fine = F.interpolate(coarse, size=(7, 7), mode="bilinear", align_corners=False)
    expected = F.linear(fine.flatten(1), weight)
    found = F.linear(coarse.flatten(1), fold_interpolation(weight, 7, 4))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def branch(head, side=7, pooler_type="ROIAlignV2"):
    """Heads with that box head on maps of 3 channels."""
    pooler = ROIPooler(side, scales=(0.25,), sampling_ratio=0, pooler_type=pooler_type)
    parts = {"box_pooler": pooler, "box_head": head, "box_predictor": nn.Identity()}
    return SimpleNamespace(box_in_features=["p2"], **parts)


def test_the_stand_in_is_the_head_on_the_interpolation():
    head = FastRCNNConvFCHead(ShapeSpec(channels=3, height=7, width=7), **HEAD)
    before = copy.deepcopy(head.state_dict())
    heads, maps = branch(head), torch.rand(1, 3, 40, 40)
    rois = [Instances((160, 160), proposal_boxes=Boxes(torch.tensor([[8.0, 8, 90, 120]])))]
    _, found = coarse_scorer(heads, {"p2": maps})(rois)
    pooled = coarse_pooler(heads.box_pooler, BINS)([maps], [rois[0].proposal_boxes])
    fine = F.interpolate(pooled, size=(7, 7), mode="bilinear", align_corners=False)
    torch.testing.assert_close(found, head(fine), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(before[k], v) for k, v in head.state_dict().items())


@pytest.mark.parametrize("kind", ["ROIAlignV2", "ROIPool"])
def test_the_coarse_pooler_is_a_copy(kind):
    pooler = ROIPooler(7, scales=(0.25, 0.125), sampling_ratio=0, pooler_type=kind)
    coarse = coarse_pooler(pooler, 4)
    features = [torch.full((1, 2, 32, 32), 3.0), torch.full((1, 2, 16, 16), 3.0)]
    boxes = [Boxes(torch.tensor([[8.0, 8, 60, 70], [4.0, 4, 120, 120]]))]
    torch.testing.assert_close(coarse(features, boxes), torch.full((2, 2, 4, 4), 3.0))
    assert pooler(features, boxes).shape == (2, 2, 7, 7)


@pytest.mark.parametrize(
    ("side", "settings", "expected"),
    [(7, {}, True), (BINS, {}, False), (7, {"conv_dims": [4]}, False)],
)
def test_which_heads_can_be_screened(side, settings, expected):
    shape = ShapeSpec(channels=3, height=side, width=side)
    head = FastRCNNConvFCHead(shape, **{**HEAD, **settings})
    assert can_screen(branch(head, side)) == expected
    assert can_screen(branch(nn.ModuleList([head]), side)) == expected  # a cascade's first stage


def test_rotated_rois_cannot_be_screened():
    head = FastRCNNConvFCHead(ShapeSpec(channels=3, height=7, width=7), **HEAD)
    assert not can_screen(branch(head, 7, "ROIAlignRotated"))


def test_a_head_that_does_not_begin_with_its_linear_layer_cannot_be_folded():
    linear = nn.Linear(3 * 49, 5)
    for head in (
        nn.Sequential(nn.Flatten(), nn.LayerNorm(3 * 49, elementwise_affine=False), linear),
        nn.Sequential(nn.Flatten(), nn.utils.parametrizations.spectral_norm(copy.deepcopy(linear))),
        nn.Sequential(nn.Flatten(), nn.Linear(50, 5)),
    ):
        assert first_linear(branch(head)) is None
    assert first_linear(branch(nn.Sequential(nn.Flatten(), linear))) == "1"


def test_the_most_promising_of_each_image_in_their_order():
    images = [Instances((9, 9), place=torch.arange(n)) for n in (4, 0, 3)]
    ranking = torch.tensor([0.1, 3.0, float("nan"), 2.0, 1.0, 2.0, 3.0])
    found = most_promising(images, ranking, 2)
    assert [image.place.tolist() for image in found] == [[1, 2], [], [1, 2]]


def chosen(heads, inputs):
    """What is trained on, by image; and how many RoIs were scored exactly."""
    trained, scored = [], []
    seam, score = heads.label_and_sample_proposals, heads.score_rois
    heads.label_and_sample_proposals = lambda *args: trained.append(seam(*args)) or trained[-1]

    def count(features, proposals):
        scored.append(sum(len(p) for p in proposals))
        return score(features, proposals)

    heads.score_rois = count
    with EventStorage():
        _, losses = heads(*inputs)
    del heads.label_and_sample_proposals, heads.score_rois
    return [t.proposal_boxes.tensor for t in trained[0]], sum(scored), losses


def test_chooses_among_the_promising():
    """Against the same in plain steps: interpolate, rank, keep 2 x B/N, score those, select."""
    model = detector(config(budget=8, ohem={"screening": 2.0}))
    heads = model.roi_heads
    inputs = roi_inputs(model, batch(config()))
    found, scored, _ = chosen(heads, inputs)
    assert scored == 2 * 2 * 8

    exact = detector(config(budget=200, ohem={"nms_scope": "none"}))
    exact.load_state_dict(model.state_dict())
    images, features, proposals, targets = inputs
    with EventStorage(), torch.no_grad():
        everything, _ = exact.roi_heads(
            images, features, [copy.copy(p) for p in proposals], targets
        )
        pooler = ROIPooler(
            4, scales=(1 / 4, 1 / 8, 1 / 16, 1 / 32), sampling_ratio=1, pooler_type="ROIAlignV2"
        )
        for i, rois in enumerate(everything):
            maps = [features[f][i : i + 1] for f in ("p2", "p3", "p4", "p5")]
            fine = F.interpolate(pooler(maps, [rois.proposal_boxes]), size=(7, 7), mode="bilinear")
            predictions = heads.box_predictor(heads.box_head(fine))
            losses = per_roi_losses(heads.box_predictor, predictions, [rois])
            promising = rois[sum(losses.values()).argsort(descending=True)[:16]]
            pooled = heads.box_pooler(maps, [promising.proposal_boxes])
            predictions = heads.box_predictor(heads.box_head(pooled))
            losses = sum(per_roi_losses(heads.box_predictor, predictions, [promising]).values())
            boxes = promising.proposal_boxes.tensor
            hard = select_hard_examples(losses, boxes, promising.gt_classes, 8)
            torch.testing.assert_close(found[i], boxes[hard])


@pytest.mark.parametrize("name", ["fpn", "cascade"])
def test_enough_promising_ones_change_nothing(name):
    plain, screened = (detector(config(name, ohem={"screening": x})) for x in (0.0, 5.0))
    inputs = batch(config(name), num_proposals=60)
    exact, scored, _ = chosen(plain.roi_heads, roi_inputs(plain, inputs))
    found, _, losses = chosen(screened.roi_heads, roi_inputs(screened, inputs))
    assert scored <= 2 * (60 + 4)
    for ours, theirs in zip(found, exact):
        torch.testing.assert_close(ours, theirs)
    sum(losses.values()).backward()
    assert all(
        n in gradients(screened) for n, _ in screened.roi_heads.named_parameters("roi_heads")
    )


@pytest.mark.parametrize(
    ("name", "overrides"), [("c4", ()), ("fpn", ("MODEL.ROI_BOX_HEAD.NUM_CONV", 1))]
)
def test_heads_without_a_stand_in_are_refused(name, overrides):
    with pytest.raises(ValueError, match="SCREENING = 2.0"):
        detector(config(name, *overrides, ohem={"screening": 2.0}))


def test_the_coarse_pooler_takes_one_sample_a_bin():
    """Against RoIAlign of the same boxes by torchvision, one sample and many."""
    pooler = ROIPooler(7, scales=(0.25,), sampling_ratio=0, pooler_type="ROIAlignV2")
    maps, boxes = torch.rand(1, 3, 40, 40), torch.tensor([[10.0, 20.0, 90.0, 120.0]])
    found = coarse_pooler(pooler, 4)([maps], [Boxes(boxes)])
    one, all_samples = (
        roi_align(maps, [boxes], 4, 0.25, sampling_ratio=ratio, aligned=True) for ratio in (1, 0)
    )
    torch.testing.assert_close(found, one)
    assert not torch.allclose(one, all_samples, atol=1e-3)
    assert pooler.level_poolers[0].sampling_ratio == 0  # the heads' own is as it was
