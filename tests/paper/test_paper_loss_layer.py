"""The loss layer is OHEM in one pass: the same RoIs, losses and gradients."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.utils.events import EventStorage
from models import batch, config, detector, gradients
from steps import assert_same, train_heads
from torch import nn

from projects.paper.ohem_paper import loss_layer


def with_loss_layer(name="fpn", *overrides, **kwargs):
    cfg = config(name, *overrides, **kwargs)
    cfg.MODEL.ROI_HEADS.NAME = cfg.MODEL.ROI_HEADS.NAME.replace("OHEM", "LossLayer")
    return cfg


@pytest.mark.parametrize("name", ["fpn", "mask", "keypoint", "dc5"])
@pytest.mark.parametrize("ohem", [{}, {"nms_thresh": 0.3, "budget": "quota"}])
def test_loss_layer_equals_the_two_passes(name, ohem):
    two_passes = detector(config(name, ohem=ohem))
    one_pass = detector(with_loss_layer(name, ohem=ohem))
    inputs = batch(config(name))
    losses, trained, storage = train_heads(two_passes, inputs)
    other_losses, other_trained, other_storage = train_heads(one_pass, inputs)
    assert_same(other_losses, losses)
    assert_same(gradients(one_pass), gradients(two_passes))
    for a, b in zip(trained, other_trained):
        torch.testing.assert_close(a.proposal_boxes.tensor, b.proposal_boxes.tensor)
    logged, others = storage.latest(), other_storage.latest()
    assert logged.keys() == others.keys() and logged["ohem/num_fg"][0] > 0
    for key in ("ohem/num_candidates", "ohem/num_survivors", "ohem/num_fg", "ohem/num_bg"):
        assert logged[key] == others[key]


def test_all_candidates_go_through_the_training_pass():
    model, inputs = detector(with_loss_layer()), batch(config())
    rows = []
    model.roi_heads.box_predictor.register_forward_pre_hook(
        lambda module, args: rows.append((torch.is_grad_enabled(), len(args[0])))
    )
    _, trained, storage = train_heads(model, inputs)
    assert rows == [(True, 2 * storage.latest()["ohem/num_candidates"][0])]
    assert [len(image) for image in trained] == [16, 16]


def test_scoring_in_the_loss_layer_updates_no_statistics_twice():
    cfg = with_loss_layer()
    model = detector(cfg)

    class Predictor(FastRCNNOutputLayers):
        def forward(self, x):
            return super().forward(self.norm(x))

    predictor = Predictor(cfg, ShapeSpec(channels=16))
    predictor.norm = nn.BatchNorm1d(16)
    model.roi_heads.box_predictor = predictor.train()
    train_heads(model, batch(cfg))
    assert int(predictor.norm.num_batches_tracked) == 1


def test_a_failing_step_leaves_the_heads_usable():
    cfg = with_loss_layer()
    model, inputs = detector(cfg), batch(cfg)
    good, _, _ = train_heads(model, inputs)
    head, model.roi_heads.box_head = model.roi_heads.box_head, nn.Linear(1, 1)
    with pytest.raises(RuntimeError):
        train_heads(model, inputs)
    if "label_and_sample_proposals" in vars(model.roi_heads):
        del model.roi_heads.label_and_sample_proposals
    model.roi_heads.box_head = head
    assert_same(train_heads(model, inputs)[0], good)


def test_a_warmup_and_inference_are_the_parents():
    cfg = with_loss_layer("fpn", ohem={"warmup_iters": 5})
    model, plain = detector(cfg), detector(config("fpn", plain=True))
    plain.load_state_dict(model.state_dict())
    inputs = batch(cfg)
    losses = []
    for m in (model, plain):
        torch.manual_seed(1)
        with EventStorage():
            losses.append(m(inputs))
    assert_same(*losses)
    with torch.no_grad():
        ours, theirs = model.eval()(inputs), plain.eval()(inputs)
    for a, b in zip(ours, theirs):
        assert torch.equal(a["instances"].pred_boxes.tensor, b["instances"].pred_boxes.tensor)


def test_screening_is_refused():
    cfg = with_loss_layer(ohem={"screening": 2.0})
    with pytest.raises(ValueError, match="SCREENING takes a read-only pass"):
        loss_layer.LossLayerROIHeads(cfg, detector(config()).backbone.output_shape())
