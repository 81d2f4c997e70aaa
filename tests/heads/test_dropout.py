import copy
import logging

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


def with_dropout(cfg):
    model = detector(cfg)
    torch.manual_seed(0)
    model.roi_heads.box_head = DropoutHead()
    model.roi_heads.box_head[2].eval()  # statistics that move would move what there is to drop
    model.roi_heads.box_predictor = FastRCNNOutputLayers(cfg, ShapeSpec(channels=32))
    torch.manual_seed(1)
    return model


def masks_of(model, inputs, iterations, passes=1):
    """Which outputs of the dropout layer were dropped in scoring, by iteration and pass."""
    dropped = []
    layer = model.roi_heads.box_head[4]

    def note(module, args, output):
        if module.training and not torch.is_grad_enabled():
            dropped.append((args[0] != 0) & (output == 0))

    with layer.register_forward_hook(note), EventStorage(iterations[0]) as storage:
        for _ in iterations:
            for _ in range(passes):
                model.roi_heads(*roi_inputs(model, inputs))
            storage.step()
    return dropped


def test_every_iteration_and_pass_has_masks_of_its_own_and_a_resumed_run_has_them_again():
    cfg = config("fpn", ohem={"chunk_size": 1000})
    inputs = batch(cfg)
    (a, b, c, d) = masks_of(with_dropout(cfg), inputs, [5, 6], passes=2)
    for i, one in enumerate((a, b, c, d)):
        assert one.any()
        for other in (a, b, c, d)[:i]:
            assert not torch.equal(one, other)
    resumed = masks_of(with_dropout(cfg), inputs, [6], passes=2)
    assert torch.equal(resumed[0], c) and torch.equal(resumed[1], d)
    model = with_dropout(cfg)
    torch.manual_seed(2)  # another run
    assert not torch.equal(masks_of(model, inputs, [5])[0], a)


def test_every_stage_of_a_cascade_has_a_seed_of_its_own(storage):
    model = detector(config("cascade", ohem={"cascade_stages": "all"}))
    heads, seeds = model.roi_heads, []
    scorer = heads.scorer

    def spy(*args):
        seeds.append(scorer(*args).seed)
        return scorer(*args)

    heads.scorer = spy
    heads(*roi_inputs(model, batch(config("cascade"))))
    assert len(set(seeds)) == len(seeds) == 3


def test_dropout_rests_while_screening():
    cfg = config("fpn", budget=8, ohem={"screening": 2.0})
    model = with_dropout(cfg)
    layer, seen = model.roi_heads.box_head[4], []
    layer.register_forward_hook(lambda m, args, out: seen.append((m.training, len(out))))
    model.roi_heads.watcher = None
    with EventStorage():
        model.roi_heads(*roi_inputs(model, batch(cfg)))
    # the stand-in for all, the promising ones, the hard ones; then the proof
    assert seen[:3] == [(False, 127), (True, 32), (True, 16)]
    assert all(not training for training, _ in seen[3:])


def test_dropout_as_the_choice_is_proven(caplog):
    """The proof rests it, or it would find predictions that differ."""
    cfg = config("fpn")
    model = with_dropout(cfg)
    model.roi_heads.box_predictor.cls_score.weight.data.normal_()
    caplog.set_level(logging.INFO, logger="detectron2.ohem_d2")
    for _ in range(2):
        train_heads(model, batch(cfg))
    (record,) = [r for r in caplog.records if "proven" in r.message]
    assert record.levelname == "INFO" and "but for Dropout: dropout rested" in record.message
