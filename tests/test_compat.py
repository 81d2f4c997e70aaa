"""What is found of Detectron2 is compared with what the same thing does when it is used."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from torch import nn

from ohem_d2 import compat


def predictor(**kwargs):
    transform = Box2BoxTransform((10.0, 10.0, 5.0, 5.0))
    return FastRCNNOutputLayers(
        ShapeSpec(channels=2), box2box_transform=transform, num_classes=3, **kwargs
    )


@pytest.mark.parametrize(
    ("feature", "argument", "uses"),
    [
        ("sigmoid cross entropy", "use_sigmoid_ce", compat.uses_sigmoid_ce),
        ("federated loss", "use_fed_loss", compat.uses_fed_loss),
    ],
)
def test_losses(feature, argument, uses):
    assert not uses(predictor())
    arguments = {argument: True}
    if argument == "use_fed_loss":
        arguments.update(use_sigmoid_ce=True, get_fed_loss_cls_weights=lambda: torch.ones(3))
    if compat.features()[feature]:
        assert uses(predictor(**arguments))
    else:
        with pytest.raises(TypeError):
            predictor(**arguments)


def test_predictors_of_other_kinds_use_neither():
    assert not compat.uses_sigmoid_ce(nn.Linear(1, 1))
    assert not compat.uses_fed_loss(nn.Linear(1, 1))


def test_compiled_operators():
    from detectron2.layers.rotated_boxes import pairwise_iou_rotated

    boxes = torch.tensor([[5.0, 5.0, 4.0, 2.0, 30.0]])
    if compat.has_compiled_ops():
        torch.testing.assert_close(pairwise_iou_rotated(boxes, boxes), torch.ones(1, 1))
    else:
        with pytest.raises((AttributeError, RuntimeError)):
            pairwise_iou_rotated(boxes, boxes)
