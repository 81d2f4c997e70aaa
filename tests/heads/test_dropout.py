import copy

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.utils.events import EventStorage
from models import batch, config, detector, roi_inputs
from steps import assert_same, indices_of, train_heads
from torch import nn


class DropoutHead(nn.Sequential):
    """A box head with the dropout of the paper's VGG, and batch norm on top of it."""

    def __init__(self):
        super().__init__(
            nn.Flatten(), nn.Linear(16 * 49, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.5)
        )


@pytest.mark.parametrize("chunk_size", [1, 13, 64, 127])
def test_the_chunk_size_changes_nothing(chunk_size):
    inputs = batch(config("fpn"))
    results = []
    for size in (0, chunk_size):
        model = detector(config("fpn", ohem={"chunk_size": size}))
        torch.manual_seed(0)
        model.roi_heads.box_head = DropoutHead()
        model.roi_heads.box_predictor = FastRCNNOutputLayers(config("fpn"), ShapeSpec(channels=32))
        model.roi_heads.box_predictor.cls_score.weight.data.normal_()
        torch.manual_seed(1)
        losses, trained, _ = train_heads(model, inputs)
        results.append((indices_of(trained, inputs), losses))
    for a, b in zip(results[0][0], results[1][0]):
        assert a.tolist() == b.tolist()
    assert_same(results[0][1], results[1][1])


def test_dropout_can_be_left_out_of_scoring():
    inputs = batch(config("fpn"))
    chosen = {}
    for dropout in (True, False):
        for seed in (1, 2):
            model = detector(config("fpn", ohem={"readonly_dropout": dropout}))
            model.roi_heads.box_head = DropoutHead()
            model.roi_heads.box_head.load_state_dict(
                {n: torch.full_like(p, 0.01) for n, p in DropoutHead().state_dict().items()}
            )
            model.roi_heads.box_predictor = FastRCNNOutputLayers(
                config("fpn"), ShapeSpec(channels=32)
            )
            for i, p in enumerate(model.roi_heads.box_predictor.parameters()):
                p.data = torch.randn(p.shape, generator=torch.Generator().manual_seed(i))
            torch.manual_seed(seed)
            _, trained, _ = train_heads(model, inputs)
            chosen[dropout, seed] = [i.tolist() for i in indices_of(trained, inputs)]
    assert chosen[False, 1] == chosen[False, 2]
    assert chosen[True, 1] != chosen[True, 2]


def test_scoring_leaves_statistics_random_state_and_storage_alone():
    model = detector(config("fpn"))
    heads = model.roi_heads
    heads.box_head = DropoutHead()
    heads.box_predictor = FastRCNNOutputLayers(config("fpn"), ShapeSpec(channels=32))
    inputs = batch(config("fpn"))
    images, features, proposals, targets = roi_inputs(model, inputs)
    before = copy.deepcopy(heads.state_dict())
    rng = torch.get_rng_state()
    choose, checked = heads.choose_rois, []

    def spy(*args):
        rois = choose(*args)
        checked.append(set(storage.latest()))
        for name, value in heads.state_dict().items():
            assert torch.equal(value, before[name]), name
        assert torch.equal(torch.get_rng_state(), rng)
        assert all(m.training for m in heads.modules())
        return rois

    heads.choose_rois = spy
    with EventStorage() as storage:
        sampled, _ = heads(images, features, proposals, targets)
    (names,) = checked
    assert all(not p.requires_grad for s in sampled for p in [s.proposal_boxes.tensor])
    # Only what was mined, and the parent's count of it; no accuracy of the scoring pass.
    assert {name.split("/")[0] for name in names} == {"ohem", "roi_head"}
    assert "roi_head/num_fg_samples" in names
