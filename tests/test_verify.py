import logging

import others
import pytest
import torch
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage
from models import batch, config, detector, roi_inputs
from steps import train_heads
from torch import nn

from ohem_d2 import OHEMSettings
from ohem_d2.verify import differs_in_training, losses_in, with_gradients


@pytest.fixture
def said(monkeypatch):
    messages = []
    monkeypatch.setattr(logging.getLogger("ohem_d2.monitor.scalars"), "warning", messages.append)
    return messages


def train(model, inputs, steps):
    """So many steps of the heads, which learn meanwhile; the number of the one that failed."""
    optimizer = torch.optim.SGD(model.roi_heads.parameters(), lr=0.05)
    with EventStorage() as storage:
        for step in range(1, steps + 1):
            optimizer.zero_grad()
            try:
                _, losses = model.roi_heads(*roi_inputs(model, inputs))
            except RuntimeError as e:
                assert "would be ranked by other losses than it trains on" in str(e)
                return step, str(e)
            sum(losses.values()).backward()
            optimizer.step()
            storage.step()
    return None, ""


@pytest.mark.parametrize("way", others.WAYS)
def test_every_way_is_noticed_soon(way):
    model = others.model_of(way)
    step, message = train(model, batch(config()), 8)
    assert step in (1, 2, 4, 8), way
    name = type(model.roi_heads).__name__
    for part in (name, "score_rois", "per_roi_losses.register", "check_heads", "VERIFY False"):
        assert part in message


@pytest.mark.parametrize("way", ["scaled features", "squared"])
def test_it_can_be_turned_off(way):
    assert train(others.model_of(way, ohem={"verify": False}), batch(config()), 4) == (None, "")


@pytest.mark.parametrize("name", ["fpn", "c4", "cascade"])
def test_plain_heads_agree_in_every_step(name, said):
    cfg = config(name, "MODEL.MASK_ON", False)
    assert train(detector(cfg), batch(cfg), 9) == (None, "")
    assert said == []


def test_it_looks_in_iterations_1_2_4_8(monkeypatch):
    steps, model, inputs = [], detector(config()), batch(config())
    monkeypatch.setattr("ohem_d2.heads.verify", lambda *_: steps.append(storage.iter + 1) or "")
    with EventStorage() as storage:
        for _ in range(17):
            model.roi_heads(*roi_inputs(model, inputs))
            storage.step()
            # Passes without gradients, as of a validation loss, are no iterations.
            with torch.no_grad(), EventStorage():
                model.roi_heads(*roi_inputs(model, inputs))
    assert steps == [1, 2, 4, 8, 16]


def test_a_common_factor_changes_no_ranking(said):
    model, inputs = detector(config()), batch(config())
    losses = model.roi_heads.box_predictor.losses
    model.roi_heads.box_predictor.losses = lambda *args: {
        k: 2 * v for k, v in losses(*args).items()
    }
    assert train(model, inputs, 4) == (None, "")
    (message,) = said
    assert "trains on 2 times the losses that it is ranked by" in message


def test_a_weight_of_the_heads_can_be_that_of_the_ranking():
    model, inputs = others.model_of("a weight outside"), batch(config())
    _, message = train(model, inputs, 8)
    assert "RANK_LOC_WEIGHT 2 ranks as it trains" in message
    for ohem in (OHEMSettings(rank_loc_weight=2.0), OHEMSettings(rank_cls_weight=0.5)):
        model.roi_heads.ohem = ohem
        assert train(model, inputs, 4) == (None, "")


def test_the_weights_of_the_ranking_are_free():
    """Where the heads train on their plain losses."""
    for ohem in ({"rank_loc_weight": 0.1}, {"rank_cls_weight": 0.0}, {"rank_loc_weight": 0.0}):
        assert train(detector(config(ohem=ohem)), batch(config()), 4) == (None, "")


@pytest.mark.parametrize("dtype", [torch.bfloat16])
def test_half_precision_is_no_difference(dtype):
    for ohem in ({}, {"readonly_precision": "bfloat16"}):
        model, inputs = detector(config(ohem=ohem)), batch(config())
        arguments = roi_inputs(model, inputs)
        with EventStorage(), torch.autocast("cpu", dtype=dtype, enabled=not ohem):
            model.roi_heads(*arguments)


def test_nothing_to_compare():
    """No RoI, or a head so sure that no loss is left."""
    inputs = batch(config(), (0, 0))
    assert train(detector(config()), inputs, 2) == (None, "")
    model = detector(config())
    with torch.no_grad():
        model.roi_heads.box_predictor.cls_score.bias[-1] = 60
    assert train(model, inputs, 2) == (None, "")
    for x in inputs:
        x["proposals"] = x["proposals"][:0]
    assert train(detector(config()), inputs, 2) == (None, "")


def test_losses_of_other_names_are_told(said):
    model = detector(config())
    losses = model.roi_heads.box_predictor.losses
    model.roi_heads.box_predictor.losses = lambda *args: {
        f"{name}_rcnn": loss for name, loss in losses(*args).items()
    }
    assert train(model, batch(config()), 4) == (None, "")
    (message,) = said
    assert "forward() returns no loss_cls and loss_box_reg" in message


LAYERS = {
    "Dropout": lambda: nn.Sequential(nn.Linear(16 * 49, 16), nn.Dropout(0.5)),
    "BatchNorm1d": lambda: nn.Sequential(nn.Linear(16 * 49, 16), nn.BatchNorm1d(16)),
    "SpectralNorm": lambda: nn.utils.spectral_norm(nn.Linear(16 * 49, 16)),
    "_SpectralNorm": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(16 * 49, 16)),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_layers_that_differ_in_training_are_named(layer, said):
    """Equal losses differ by them, so nothing is compared; the heads train."""
    model = detector(config())
    torch.manual_seed(0)
    model.roi_heads.box_head = nn.Sequential(nn.Flatten(), LAYERS[layer]())
    model.roi_heads.box_predictor.cls_score.weight.data.normal_()
    assert differs_in_training(model.roi_heads) == [layer]
    assert train(model, batch(config()), 4) == (None, "")
    (message,) = said
    assert f"{layer} makes losses in training differ" in message
    model.roi_heads.box_head.eval()
    assert differs_in_training(model.roi_heads) == []


def test_losses_in_what_a_forward_returns():
    losses = {"loss": torch.ones(1)}
    for result in (("instances", losses), (losses, [1]), losses, ([], losses, "third")):
        assert losses_in(result) is losses
    for result in (("instances", (torch.ones(1),)), [1], None, Instances((1, 1))):
        assert losses_in(result) == {}


@pytest.mark.parametrize("value", [1.0, float("inf"), float("nan")])
def test_constant_losses_pass_zero_gradients_whatever_the_weights(value):
    weight, frozen = nn.Parameter(torch.tensor([value, 2.0])), nn.Parameter(torch.ones(2))
    ours = nn.Parameter(torch.tensor(3.0))
    frozen.requires_grad_(False)
    losses = {"constant": torch.tensor(0.5), "other": ours * 2, "number": 3}
    other = losses["other"]
    with_gradients(losses, [weight, frozen, ours])
    assert losses["constant"] == 0.5 and losses["other"] is other and losses["number"] == 3
    sum(losses.values()).backward()
    assert torch.equal(weight.grad, torch.zeros(2)) and ours.grad == 2
    with torch.no_grad():
        losses = {"constant": torch.tensor(0.5)}
        with_gradients(losses, [weight])
        assert not losses["constant"].requires_grad


def test_the_error_is_that_of_the_first_step_and_training_stops():
    with pytest.raises(RuntimeError, match="RANK_LOC_WEIGHT 4 ranks as it trains"):
        train_heads(others.model_of("weighted_boxes"), batch(config()))
