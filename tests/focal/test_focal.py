"""The focal loss against plain loops, fvcore's, finite differences, and the cross entropy."""

import doctest
import math

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from fvcore.nn import sigmoid_focal_loss as fvcores
from hypothesis import given, settings
from hypothesis import strategies as st
from models import batch, config, detector
from steps import assert_trains_on_the_mined_batch, pair_of, train_heads

from ohem_d2 import per_roi_losses
from ohem_d2.tools.load_model import default_cfg
from projects.focal import (
    FocalLossOutputLayers,
    add_focal_config,
    losses,
    sigmoid_focal_loss,
    softmax_focal_loss,
)

K = 5
GAMMAS = [0.0, 0.1, 0.5, 1.0, 2.0]


def layers(cls=FocalLossOutputLayers, **keys):
    cfg = get_cfg()
    add_focal_config(cfg)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = K
    for name, value in keys.items():
        cfg.MODEL.ROI_BOX_HEAD[f"FOCAL_LOSS_{name.upper()}"] = value
    return cls(cfg, ShapeSpec(channels=8))


def data(num=60, dtype=torch.float32):
    scores = torch.randn(num, K + 1, dtype=dtype) * 3
    return scores, torch.randint(0, K + 1, (num,))


def by_loops(scores, gt_classes, gamma, alpha):
    found = []
    for row, label in zip(scores.tolist(), gt_classes.tolist()):
        exps = [math.exp(x) for x in row]
        p = exps[label] / sum(exps)
        weight = 1.0 if alpha < 0 else (alpha if label < K else 1 - alpha)
        found.append(-weight * (1 - p) ** gamma * math.log(p))
    return torch.tensor(found)


def of_kind(kind, scores, gt_classes, **how):
    if kind == "softmax":
        return softmax_focal_loss(scores, gt_classes, **how)
    targets = torch.nn.functional.one_hot(gt_classes, scores.shape[1]).bool()
    return sigmoid_focal_loss(scores, targets, **how)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("alpha", [-1.0, 0.25, 0.75])
def test_softmax_focal_loss(gamma, alpha):
    scores, gt_classes = data()
    found = softmax_focal_loss(scores, gt_classes, gamma=gamma, alpha=alpha)
    torch.testing.assert_close(found, by_loops(scores, gt_classes, gamma, alpha))


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("alpha", [-1.0, 0.25])
def test_sigmoid_focal_loss(gamma, alpha):
    scores, gt_classes = data()
    predictor = layers(type="sigmoid", gamma=gamma, alpha=alpha)
    target = torch.zeros_like(scores)
    target[torch.arange(len(scores)), gt_classes] = 1
    expected = fvcores(scores, target, alpha, gamma)[:, :K].sum(dim=1)
    torch.testing.assert_close(predictor.focal_loss(scores, gt_classes), expected)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("spread", [1, 10])
def test_gradients_are_finite_differences(kind, gamma, spread):
    scores, gt_classes = data(8, torch.float64)
    scores = (spread * scores).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: of_kind(kind, x, gt_classes, gamma=gamma, alpha=0.3), scores
    )


LOGITS = st.one_of(st.floats(-40, 40), st.floats(-3e38, 3e38), st.sampled_from([-20.0, 20.0, 0.0]))


@settings(max_examples=300, deadline=None)
@given(
    st.lists(LOGITS, min_size=2, max_size=4),
    st.integers(0, 1),
    st.sampled_from([0.0, 1e-3, 0.5, 0.999, 1.0, 1.5, 2.0, 50.0]),
    st.sampled_from(["softmax", "sigmoid"]),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_gradients_are_finite(logits, label, gamma, kind, dtype):
    scores = torch.tensor([logits], dtype=dtype, requires_grad=True)
    loss = of_kind(kind, scores, torch.tensor([label]), gamma=gamma)
    loss.sum().backward()
    assert torch.isfinite(loss).all() and (loss >= 0).all()
    assert torch.isfinite(scores.grad).all()
    assert scores.grad[0, label] <= 0  # the right class is pulled up


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_single_precision_is_close_far_out(kind, gamma):
    """Where 1 - p of the right class rounds to 0, and where p does."""
    steps = torch.linspace(-60, 60, 41, dtype=torch.float64)
    found = []
    for dtype in (torch.float32, torch.float64):
        scores = torch.stack([steps, -steps, torch.zeros_like(steps)], dim=1).to(dtype)
        scores.requires_grad_()
        loss = of_kind(kind, scores, torch.zeros(41, dtype=torch.long), gamma=gamma)
        loss.sum().backward()
        found.append((loss.detach().double(), scores.grad.double()))
    torch.testing.assert_close(found[0], found[1], rtol=2e-3, atol=1e-30)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_heads_train_on_it_and_are_mined_by_it(kind):
    cfg = config("fpn", "MODEL.ROI_HEADS.NAME", "OHEMFocalROIHeads")
    add_focal_config(cfg)
    cfg.MODEL.ROI_BOX_HEAD.FOCAL_LOSS_TYPE = kind
    ours, plain = pair_of(cfg, "FocalROIHeads")
    inputs = batch(cfg)
    assert isinstance(plain.roi_heads.box_predictor, FocalLossOutputLayers)
    assert_trains_on_the_mined_batch(ours, plain, inputs)
    found, trained, _ = train_heads(ours, inputs)
    predictor = ours.roi_heads.box_predictor
    bias = predictor.cls_score.bias
    expected = torch.full_like(bias, -math.log(99) if kind == "sigmoid" else 0.0)
    torch.testing.assert_close(bias, expected)
    # Predictions sum to 1 over the classes only with a softmax.
    ours.eval()
    scores = torch.randn(6, 81)
    (probs,) = predictor.predict_probs((scores, torch.zeros(6, 320)), [trained[0][:6]])
    expected = scores.softmax(dim=1) if kind == "softmax" else scores.sigmoid()
    torch.testing.assert_close(probs, expected)
    assert set(found) == {"loss_cls", "loss_box_reg"}


def test_without_a_focus_it_is_the_cross_entropy(storage):
    model = detector(config("fpn", "MODEL.ROI_HEADS.NAME", "OHEMFocalROIHeads"))
    _, rois, _ = train_heads(model, batch(config()))
    predictor, plain = layers(gamma=0.0), layers(FastRCNNOutputLayers)
    for image in rois:
        image.gt_classes.clamp_(max=K)
    scores, deltas = torch.randn(32, K + 1), torch.randn(32, 4 * K)
    found = predictor.losses((scores, deltas), rois)
    expected = plain.losses((scores, deltas), rois)
    each = per_roi_losses(predictor, (scores, deltas), rois)
    for name, loss in expected.items():
        torch.testing.assert_close(found[name], loss)
        torch.testing.assert_close(each[name].mean(), loss)


@pytest.mark.parametrize(
    "key, value", [("TYPE", "hinge"), ("GAMMA", -1.0), ("GAMMA", math.inf), ("ALPHA", 2.0)]
)
def test_impossible_values(key, value):
    with pytest.raises(ValueError, match=f"FOCAL_LOSS_{key} = {value!r}; allowed: "):
        layers(**{key.lower(): value})


def test_a_command_that_imports_the_project_has_its_keys():
    box = default_cfg(["projects.focal"]).MODEL.ROI_BOX_HEAD
    assert (box.FOCAL_LOSS_TYPE, box.FOCAL_LOSS_GAMMA, box.FOCAL_LOSS_ALPHA) == ("softmax", 2.0, -1)
    cfg = get_cfg()
    cfg.MODEL.ROI_BOX_HEAD.FOCAL_LOSS_GAMMA = 3.0
    add_focal_config(cfg)
    assert cfg.MODEL.ROI_BOX_HEAD.FOCAL_LOSS_GAMMA == 3.0


def test_the_examples():
    failed, attempted = doctest.testmod(losses)
    assert attempted > 0 and failed == 0
