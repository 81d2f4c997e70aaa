import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from models import ZOO, batch, config, detector, gradients
from steps import assert_same, train_heads
from torch import nn


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("settings", [{}, {"nms_thresh": 0.3, "budget": "batch"}])
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
