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
def test_the_chunk_size_changes_nothing_where_dropout_rests(chunk_size):
    """Though the head has dropout, and batch normalization, when it is trained."""
    inputs = batch(config("fpn"))
    results = []
    for size in (0, chunk_size):
        settings = {"chunk_size": size, "readonly_dropout": False}
        model = detector(config("fpn", ohem=settings))
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
    mine, checked = heads.mine, []

    def spy(*args):
        rois = mine(*args)
        checked.append(set(storage.latest()))
        for name, value in heads.state_dict().items():
            assert torch.equal(value, before[name]), name
        assert torch.equal(torch.get_rng_state(), rng)
        assert all(m.training for m in heads.modules())
        return rois

    heads.mine = spy
    with EventStorage() as storage:
        sampled, _ = heads(images, features, proposals, targets)
    (names,) = checked
    assert all(not p.requires_grad for s in sampled for p in [s.proposal_boxes.tensor])
    # Only what was mined, and the parent's count of it; no accuracy of the scoring pass.
    assert {name.split("/")[0] for name in names} == {"ohem", "roi_head"}
    assert "roi_head/num_fg_samples" in names


def with_dropout(cfg):
    model = detector(cfg)
    torch.manual_seed(0)
    model.roi_heads.box_head = DropoutHead()
    model.roi_heads.box_head[2].eval()  # statistics that move would move what there is to drop
    model.roi_heads.box_predictor = FastRCNNOutputLayers(cfg, ShapeSpec(channels=32))
    torch.manual_seed(1)
    return model


def masks_of(model, inputs, steps, seed=0):
    """Which outputs of the dropout layer were dropped in scoring, and in training, by step."""
    dropped = {True: [], False: []}

    def note(module, args, output):
        if module.training:
            dropped[torch.is_grad_enabled()].append((args[0] != 0) & (output == 0))

    torch.manual_seed(seed)
    with model.roi_heads.box_head[4].register_forward_hook(note), EventStorage() as storage:
        for _ in range(steps):
            model.roi_heads(*roi_inputs(model, inputs))
            storage.step()
    return dropped[False], dropped[True]


def test_every_pass_has_masks_of_its_own_and_a_seeded_run_has_them_again():
    cfg = config("fpn", ohem={"chunk_size": 1000})
    inputs = batch(cfg)
    scoring, training = masks_of(with_dropout(cfg), inputs, 3)
    again, _ = masks_of(with_dropout(cfg), inputs, 3)
    other, _ = masks_of(with_dropout(cfg), inputs, 3, seed=1)
    assert len(scoring) == 3 and all(mask.any() for mask in scoring)
    assert not torch.equal(scoring[0], scoring[1]) and not torch.equal(scoring[1], scoring[2])
    for mask, same, different, trained in zip(scoring, again, other, training):
        assert torch.equal(mask, same) and not torch.equal(mask, different)
        assert not torch.equal(mask[: len(trained)], trained)


def test_every_stage_of_a_cascade_has_masks_of_its_own(storage):
    cfg = config("cascade", "MODEL.MASK_ON", False, ohem={"cascade_stages": "all"})
    model, masks = detector(cfg), []
    for head in model.roi_heads.box_head:
        head.add_module("dropout", nn.Dropout(0.5))

        def note(module, args, output):
            if not torch.is_grad_enabled():
                masks.append(((args[0] != 0) & (output == 0))[:60])

        head.dropout.register_forward_hook(note)
    model.roi_heads(*roi_inputs(model, batch(cfg)))
    assert len(masks) == 3 and not torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[1], masks[2])


def test_dropout_rests_while_screening():
    cfg = config("fpn", budget=8, ohem={"screening": 2.0})
    model = with_dropout(cfg)
    layer, seen = model.roi_heads.box_head[4], []
    layer.register_forward_hook(lambda m, args, out: seen.append((m.training, len(out))))
    with EventStorage():
        model.roi_heads(*roi_inputs(model, batch(cfg)))
    # the stand-in for all, the promising ones, the hard ones
    assert seen == [(False, 127), (True, 32), (True, 16)]
