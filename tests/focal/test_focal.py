"""The focal loss against plain loops, torchvision's, and the cross entropy that it becomes."""

import math

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from models import batch, config, detector
from steps import assert_trains_on_the_mined_batch, pair_of, train_heads
from torchvision.ops import sigmoid_focal_loss

from ohem_d2 import FocalLossOutputLayers, add_ohem_config, per_roi_losses
from projects.focal.focal import softmax_focal_loss

K = 5


def layers(cls=FocalLossOutputLayers, **keys):
    cfg = get_cfg()
    add_ohem_config(cfg)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = K
    for name, value in keys.items():
        cfg.MODEL.ROI_BOX_HEAD[f"FOCAL_LOSS_{name.upper()}"] = value
    return cls(cfg, ShapeSpec(channels=8))


def data(num=60):
    scores = torch.randn(num, K + 1) * 3
    return scores, torch.randint(0, K + 1, (num,))


def by_loops(scores, gt_classes, gamma, alpha):
    losses = []
    for row, label in zip(scores.tolist(), gt_classes.tolist()):
        exps = [math.exp(x) for x in row]
        p = exps[label] / sum(exps)
        weight = 1.0 if alpha < 0 else (alpha if label < K else 1 - alpha)
        losses.append(-weight * (1 - p) ** gamma * math.log(p))
    return torch.tensor(losses)


@pytest.mark.parametrize("gamma, alpha", [(0.0, -1.0), (2.0, -1.0), (2.0, 0.25), (0.5, 0.75)])
def test_softmax_focal_loss(gamma, alpha):
    scores, gt_classes = data()
    found = softmax_focal_loss(scores, gt_classes, gamma=gamma, alpha=alpha)
    torch.testing.assert_close(found, by_loops(scores, gt_classes, gamma, alpha))


@pytest.mark.parametrize("gamma, alpha", [(0.0, -1.0), (2.0, -1.0), (2.0, 0.25)])
def test_sigmoid_focal_loss(gamma, alpha):
    scores, gt_classes = data()
    predictor = layers(type="sigmoid", gamma=gamma, alpha=alpha)
    target = torch.zeros_like(scores)
    target[torch.arange(len(scores)), gt_classes] = 1
    expected = sigmoid_focal_loss(scores, target, alpha, gamma)[:, :K].sum(dim=1)
    torch.testing.assert_close(predictor.focal_loss(scores, gt_classes), expected)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_heads_train_on_it_and_are_mined_by_it(kind):
    cfg = config("fpn", "MODEL.ROI_HEADS.NAME", "OHEMFocalROIHeads")
    cfg.MODEL.ROI_BOX_HEAD.FOCAL_LOSS_TYPE = kind
    ours, plain = pair_of(cfg, "FocalROIHeads")
    inputs = batch(cfg)
    assert isinstance(plain.roi_heads.box_predictor, FocalLossOutputLayers)
    assert_trains_on_the_mined_batch(ours, plain, inputs)
    losses, trained, _ = train_heads(ours, inputs)
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
    assert set(losses) == {"loss_cls", "loss_box_reg"}


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
