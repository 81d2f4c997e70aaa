import inspect

import numpy as np
import pytest
import reference
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn

from ohem_d2 import CannotMine, per_roi_losses
from ohem_d2.mining.losses import check_predictor, losses_to_rank_by

K = 5
WEIGHTS = (10.0, 10.0, 5.0, 5.0)
BOX_LOSSES = [("smooth_l1", 0.0), ("smooth_l1", 0.5), ("smooth_l1", 1.0)]
BOX_LOSSES += [("giou", 0.0), ("diou", 0.0), ("ciou", 0.0)]
ARGUMENTS = inspect.signature(FastRCNNOutputLayers.__init__).parameters
needs_sigmoid = pytest.mark.skipif(
    "use_sigmoid_ce" not in ARGUMENTS, reason="not in this version of Detectron2"
)
SIGMOID = [{}, pytest.param({"use_sigmoid_ce": True}, marks=needs_sigmoid)]


def predictor(cls=FastRCNNOutputLayers, **kwargs):
    return cls(
        ShapeSpec(channels=8), box2box_transform=Box2BoxTransform(WEIGHTS), num_classes=K, **kwargs
    )


def rois(sizes=(30, 20), seed=0, unlabelled=False):
    """Labelled proposals near their objects, a third of them background."""
    generator = torch.Generator().manual_seed(seed)
    images = []
    for n in sizes:
        xy = torch.rand(n, 2, generator=generator) * 100
        boxes = torch.cat([xy, xy + 1 + torch.rand(n, 2, generator=generator) * 60], dim=1)
        classes = torch.randint(0, K + 2, (n,), generator=generator).clamp(max=K)
        image = Instances((200, 200), proposal_boxes=Boxes(boxes), gt_classes=classes)
        image.gt_boxes = Boxes(boxes + torch.rand(n, 4, generator=generator) * 4)
        images.append(image)
    if unlabelled:
        images[0].remove("gt_boxes")
        images[0].gt_classes = torch.full_like(images[0].gt_classes, K)
    return images


def predict(model, proposals, seed=1):
    generator = torch.Generator().manual_seed(seed)
    n = sum(len(p) for p in proposals)
    scores = torch.randn(n, K + 1, generator=generator) * 2
    deltas = torch.randn(n, model.bbox_pred.out_features, generator=generator)
    return scores.requires_grad_(), deltas.requires_grad_()


@pytest.mark.parametrize("loss_type, beta", BOX_LOSSES)
@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("sigmoid", SIGMOID, ids=["softmax", "sigmoid"])
@pytest.mark.parametrize("loss_weight", [1.0, {"loss_cls": 0.3, "loss_box_reg": 2.5}])
@pytest.mark.parametrize("unlabelled", [False, True])
def test_mean_and_gradient_equal_those_of_the_predictor(
    loss_type, beta, agnostic, sigmoid, loss_weight, unlabelled
):
    model = predictor(
        cls_agnostic_bbox_reg=agnostic,
        box_reg_loss_type=loss_type,
        smooth_l1_beta=beta,
        loss_weight=loss_weight,
        **sigmoid,
    )
    proposals = rois(unlabelled=unlabelled)
    predictions = predict(model, proposals)
    ours = per_roi_losses(model, predictions, proposals)
    with EventStorage():
        theirs = model.losses(predictions, proposals)
    assert ours.keys() == theirs.keys()
    for name in theirs:
        assert ours[name].shape == (50,)
        torch.testing.assert_close(ours[name].mean(), theirs[name])
    for ours_grad, theirs_grad in zip(
        torch.autograd.grad(sum(v.mean() for v in ours.values()), predictions),
        torch.autograd.grad(sum(theirs.values()), predictions),
    ):
        torch.testing.assert_close(ours_grad, theirs_grad)


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("sigmoid", SIGMOID, ids=["softmax", "sigmoid"])
def test_each_roi_equals_the_plain_loop(agnostic, sigmoid):
    model = predictor(cls_agnostic_bbox_reg=agnostic, smooth_l1_beta=0.7, **sigmoid)
    proposals = rois()
    scores, deltas = (p.detach() for p in predict(model, proposals))
    losses = per_roi_losses(model, (scores, deltas), proposals)
    classes = torch.cat([p.gt_classes for p in proposals]).numpy()
    boxes = Boxes.cat([p.proposal_boxes for p in proposals]).tensor.double().numpy()
    gt = Boxes.cat([p.gt_boxes for p in proposals]).tensor.double().numpy()
    cross_entropy = reference.sigmoid_cross_entropy if sigmoid else reference.softmax_cross_entropy
    np.testing.assert_allclose(
        losses["loss_cls"], cross_entropy(scores.double().numpy(), classes), rtol=1e-5
    )
    expected = reference.smooth_l1(deltas.double().numpy(), boxes, gt, classes, K, WEIGHTS, 0.7)
    np.testing.assert_allclose(losses["loss_box_reg"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_ranking_is_in_float32_under_autocast(dtype):
    model, proposals = predictor(box_reg_loss_type="giou"), rois()
    low = [p.detach().to(dtype) for p in predict(model, proposals)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = losses_to_rank_by(model, low, proposals)
    exact = per_roi_losses(model, [p.float() for p in low], proposals)
    for name in exact:
        assert losses[name].dtype == torch.float32
        torch.testing.assert_close(losses[name], exact[name], rtol=0, atol=0)


@pytest.mark.parametrize("loss_type", ["smooth_l1", "giou", "diou", "ciou"])
def test_predictions_that_are_not_finite_give_losses_that_are_not(loss_type):
    model, proposals = predictor(box_reg_loss_type=loss_type), rois()
    scores, deltas = (p.detach() for p in predict(model, proposals))
    good = per_roi_losses(model, (scores, deltas), proposals)
    scores, deltas = scores.clone(), deltas.clone()
    foreground = int(torch.nonzero(torch.cat([p.gt_classes for p in proposals]) < K)[0])
    scores[3] = float("nan")
    deltas[foreground] = float("nan")
    losses = per_roi_losses(model, (scores, deltas), proposals)
    assert torch.nonzero(~torch.isfinite(losses["loss_cls"])).flatten().tolist() == [3]
    bad = torch.nonzero(~torch.isfinite(losses["loss_box_reg"])).flatten().tolist()
    assert bad == [foreground]
    others = torch.arange(50) != foreground
    torch.testing.assert_close(losses["loss_box_reg"][others], good["loss_box_reg"][others])


def test_no_rois():
    model = predictor()
    proposals = rois((0, 0))
    losses = per_roi_losses(model, predict(model, proposals), proposals)
    assert [tuple(v.shape) for v in losses.values()] == [(0,), (0,)]


def test_nothing_is_logged():
    model, proposals = predictor(), rois()
    with EventStorage() as storage:
        per_roi_losses(model, predict(model, proposals), proposals)
        assert storage.latest() == {}


class OwnLosses(FastRCNNOutputLayers):
    def losses(self, predictions, proposals):
        return {"loss_cls": predictions[0].square().mean(), "loss_box_reg": predictions[1].mean()}


class OwnBoxLoss(FastRCNNOutputLayers):
    def box_reg_loss(self, *args):
        return super().box_reg_loss(*args) * 2


class Described(OwnLosses):
    pass


@per_roi_losses.register(Described)
def _(predictor, predictions, proposals):
    scores, deltas = predictions
    return {"loss_cls": scores.square().mean(dim=1), "loss_box_reg": deltas.mean(dim=1)}


class DescribedAndReplaced(Described):
    def losses(self, predictions, proposals):
        return {"loss_cls": predictions[0].abs().mean(), "loss_box_reg": predictions[1].mean()}


@pytest.mark.parametrize("cls", [OwnLosses, OwnBoxLoss, DescribedAndReplaced])
def test_losses_of_its_own_are_refused(cls):
    model = predictor(cls)
    words = rf"{cls.__name__}, which has {cls.__name__}\.\w+\(\) of its own: .*register"
    with pytest.raises(CannotMine, match=words):
        check_predictor(model)
    with pytest.raises(CannotMine):
        losses_to_rank_by(model, predict(model, rois()), rois())


def test_a_parents_losses_are_not_taken_for_its_own():
    """Called without the check of the heads, too."""
    model = predictor(OwnBoxLoss)
    with pytest.raises(CannotMine, match="OwnBoxLoss"):
        per_roi_losses(model, predict(model, rois()), rois())


def test_losses_of_its_own_that_are_described_are_taken():
    model, proposals = predictor(Described), rois()
    predictions = predict(model, proposals)
    ours = per_roi_losses(model, predictions, proposals)
    for name, loss in model.losses(predictions, proposals).items():
        torch.testing.assert_close(ours[name].mean(), loss)


class LowPrecision(Described):
    pass


class WrongShape(Described):
    pass


def test_described_losses_are_made_float32_and_checked():
    @per_roi_losses.register(LowPrecision)
    def _(predictor, predictions, proposals):
        losses = per_roi_losses.dispatch(Described)(predictor, predictions, proposals)
        return {name: loss.bfloat16() for name, loss in losses.items()}

    @per_roi_losses.register(WrongShape)
    def _(predictor, predictions, proposals):
        return {"loss_cls": predictions[0], "loss_box_reg": predictions[1]}

    proposals, model = rois(), predictor(LowPrecision)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = losses_to_rank_by(model, predict(model, proposals), proposals)
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    model = predictor(WrongShape)
    with pytest.raises(CannotMine, match=r"of WrongShape returned .*\(50,\)"):
        losses_to_rank_by(model, predict(model, proposals), proposals)


class Wrapper(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner


def test_transparent_wrappers_are_seen_through():
    model, proposals = predictor(), rois()
    predictions = predict(model, proposals)
    expected = per_roi_losses(model, predictions, proposals)
    found = per_roi_losses(Wrapper(Wrapper(model)), predictions, proposals)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    for other in (nn.Linear(2, 2), Wrapper(predictor(OwnLosses))):
        with pytest.raises(CannotMine):
            per_roi_losses(other, predictions, proposals)


@pytest.mark.skipif("use_fed_loss" not in ARGUMENTS, reason="not in this version of Detectron2")
def test_federated_loss_is_refused():
    model = predictor(
        use_sigmoid_ce=True, use_fed_loss=True, get_fed_loss_cls_weights=lambda: torch.ones(K)
    )
    with pytest.raises(CannotMine, match="USE_FED_LOSS"):
        per_roi_losses(model, predict(model, rois()), rois())


def test_unknown_box_loss_is_named():
    model = predictor(box_reg_loss_type="l7")
    with pytest.raises(ValueError, match="BBOX_REG_LOSS_TYPE = 'l7'"):
        per_roi_losses(model, predict(model, rois()), rois())
