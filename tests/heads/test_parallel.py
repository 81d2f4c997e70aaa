"""Heads that run in several processes, with sharded parameters or without."""

import copy

import pytest
import torch
from detectron2.utils.events import EventStorage
from forked import spawn
from models import batch, config, detector, roi_inputs
from processes import leave, meet
from steps import assert_same
from torch import nn
from torch.utils.checkpoint import checkpoint

try:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
except ImportError:  # before PyTorch 2.6
    fully_shard = None


# ---- two processes ------------------------------------------------------------------------------


def precomputed(**ohem):
    """A detector without an RPN, so that proposals are the same everywhere."""
    name = "MODEL.PROPOSAL_GENERATOR.NAME"
    return detector(config("fpn", name, "PrecomputedProposals", ohem=ohem))


def unequal_inputs():
    """One image has three times as many proposals as the other, and chunks."""
    few, many = batch(config(), (3, 0), num_proposals=90)
    few["proposals"] = few["proposals"][:30]
    return [few, many]


def sharded_step(rank, folder, parts, ohem):
    meet(rank, folder)
    model = precomputed(**ohem)
    mesh = init_device_mesh("cpu", (2,))
    for part in parts:
        fully_shard(model.get_submodule(part), mesh=mesh)
    with EventStorage():
        for _ in range(2):
            model.zero_grad()
            losses = model([unequal_inputs()[rank]])
            sum(losses.values()).backward()
    found = {
        name: p.grad.full_tensor() if hasattr(p.grad, "full_tensor") else p.grad
        for name, p in model.roi_heads.named_parameters()
    }
    torch.save(({k: v.detach() for k, v in losses.items()}, found), f"{folder}/{rank}.pth")
    leave(rank, folder)


@pytest.mark.skipif(fully_shard is None, reason="PyTorch has no fully_shard before 2.6")
@pytest.mark.parametrize(
    "parts, ohem",
    [
        (["roi_heads"], {"chunk_size": 25}),
        (["roi_heads", ""], {"chunk_size": 25, "screening": 2.0}),
        (["roi_heads.box_head"], {"chunk_size": 25}),
        (["roi_heads.box_head", "roi_heads.box_predictor", "roi_heads"], {"chunk_size": 25}),
    ],
    ids=["heads", "heads and model, screened", "box head", "parts and heads"],
)
def test_sharded_heads_with_unequal_numbers_of_rois(parts, ohem, tmp_path):
    if "roi_heads.box_head" in parts:
        with pytest.raises(Exception, match="box_head is sharded by itself: shard the ROI heads"):
            spawn(sharded_step, str(tmp_path), parts, ohem)
        return
    spawn(sharded_step, str(tmp_path), parts, ohem)
    expected = []
    for inputs in unequal_inputs():
        model = precomputed(**ohem)
        with EventStorage():
            losses = model([inputs])
            sum(losses.values()).backward()
        gradients = {n: p.grad for n, p in model.roi_heads.named_parameters()}
        expected.append((losses, gradients))
    for rank in range(2):
        losses, gradients = torch.load(tmp_path / f"{rank}.pth")
        assert_same(losses, {k: v.detach() for k, v in expected[rank][0].items()})
        for name, found in gradients.items():
            mean = (expected[0][1][name] + expected[1][1][name]) / 2
            torch.testing.assert_close(found, mean, rtol=2e-3, atol=1e-5)


def unequal_step(rank, folder):
    """One image has objects, the other none: what one process does alone must not involve both."""
    meet(rank, folder)
    model = precomputed(chunk_size=25)
    nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight)
    wrapped = nn.parallel.DistributedDataParallel(model)
    with EventStorage() as storage:
        for _ in range(4):
            losses = wrapped([unequal_inputs()[rank]])
            sum(losses.values()).backward()
            storage.step()
    torch.save(model.roi_heads.box_predictor.cls_score.weight.grad, f"{folder}/{rank}.pth")
    leave(rank, folder)


def test_processes_whose_data_differ_do_not_wait_for_each_other(tmp_path):
    spawn(unequal_step, str(tmp_path))
    first, second = (torch.load(tmp_path / f"{rank}.pth") for rank in range(2))
    assert torch.equal(first, second) and first.any()


def test_a_checkpoint_that_runs_forward_again_mines_the_same(storage):
    """With dropout, whose masks are others in each pass of an iteration."""
    cfg = config("fpn")
    model = detector(cfg)
    model.roi_heads.box_head = nn.Sequential(
        nn.Flatten(), nn.Linear(16 * 49, 16), nn.ReLU(), nn.Dropout(0.5)
    )
    images, features, proposals, targets = roi_inputs(model, batch(cfg))
    trained = []
    mine = model.roi_heads.mine
    model.roi_heads.mine = lambda *args: trained.append(mine(*args)) or trained[-1]

    def losses(*maps):
        inputs = dict(zip(features, maps)), [copy.copy(p) for p in proposals]
        return sum(model.roi_heads(images, *inputs, targets)[1].values())

    checkpoint(losses, *features.values(), use_reentrant=False).backward()
    first, again = ([image.proposal_boxes.tensor for image in mined] for mined in trained)
    assert all(torch.equal(a, b) for a, b in zip(first, again))
