"""Heads that run in several processes: sharded parameters, and gradients that reach all of them."""

import copy
import threading

import pytest
import torch
from detectron2.utils.events import EventStorage, get_event_storage
from models import batch, config, detector, roi_inputs
from processes import leave, meet, spawn
from steps import assert_same
from torch import nn
from torch.utils.checkpoint import checkpoint

from ohem_d2.heads.parallel import agreed_number, losses_in, reaching

try:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
except ImportError:  # before PyTorch 2.6
    fully_shard = None


# ---- every parameter is reached -----------------------------------------------------------------


@pytest.mark.parametrize("value", [1.0, float("inf"), float("nan")])
def test_constant_losses_pass_zero_gradients_whatever_the_weights(value):
    weight = nn.Parameter(torch.tensor([value, 2.0]))
    ours = nn.Parameter(torch.tensor(3.0))
    losses = {"constant": torch.tensor(0.5), "other": ours * 2}
    found, reached = reaching(("proposals", losses), [weight, ours])
    assert found == "proposals" and reached["constant"] == 0.5
    assert reached["other"] is losses["other"]
    sum(reached.values()).backward()
    assert torch.equal(weight.grad, torch.zeros(2)) and ours.grad == 2


def test_results_without_losses_stay_as_they_are():
    weight = nn.Parameter(torch.ones(1))
    for result in (("instances", (torch.ones(1), torch.ones(1))), [1], ("instances", {}), None):
        assert reaching(result, [weight]) is result and losses_in(result) == {}
    assert reaching(("a", {"loss": torch.ones(1)}, "third"), [weight])[2] == "third"


# ---- one storage for all threads ----------------------------------------------------------------


def test_what_another_thread_logs_meanwhile_is_not_lost():
    """As Detectron2's asynchronous writing of metrics: scoring and labelling go on beside it."""
    model, inputs = detector(config()), batch(config())
    seen = []

    def log_from_another_thread(*_):
        thread = threading.Thread(target=lambda: get_event_storage().put_scalar("late", len(seen)))
        seen.append(type(get_event_storage()).__name__)
        thread.start()
        thread.join()

    model.roi_heads.box_head.register_forward_hook(log_from_another_thread)
    matcher = model.roi_heads.proposal_matcher
    model.roi_heads.proposal_matcher = lambda iou: log_from_another_thread() or matcher(iou)
    with EventStorage() as storage:
        model.roi_heads(*roi_inputs(model, inputs))
        history = storage.history("late").values()
    assert {"QuietStorage", "EventStorage"} == set(seen)  # it did log while ours was on top
    assert len(history) == len(seen)


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
        (["roi_heads.box_head", "roi_heads.box_predictor", "roi_heads"], {"chunk_size": 25}),
        (["roi_heads", ""], {"chunk_size": 25}),
        (["roi_heads.box_head"], {"chunk_size": 25, "screening": 2.0}),
    ],
    ids=["heads", "parts and heads", "heads and model", "box head, screened"],
)
def test_sharded_heads_with_unequal_numbers_of_rois(parts, ohem, tmp_path):
    if "screening" in ohem:
        with pytest.raises(Exception, match="SCREENING = 2.0 .* box_head of .* is sharded"):
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
        if "roi_heads" not in parts:
            continue
        for name, found in gradients.items():
            mean = (expected[0][1][name] + expected[1][1][name]) / 2
            torch.testing.assert_close(found, mean, rtol=2e-3, atol=1e-5)


def agree(rank, folder):
    meet(rank, folder)
    plain = nn.Sequential(nn.Linear(2, 2))
    assert agreed_number(plain, rank + 3) == rank + 3

    class FullyShardedDataParallel(nn.Sequential):
        """By its name, as PyTorch's first way to shard"""

    assert agreed_number(nn.Sequential(FullyShardedDataParallel()), rank + 3) == 4
    leave(rank, folder)


def test_processes_agree_on_passes_where_a_part_is_sharded(tmp_path):
    spawn(agree, str(tmp_path))
    assert agreed_number(nn.Linear(2, 2), 5) == 5


def test_a_checkpoint_that_runs_forward_again_mines_the_same(storage):
    """With dropout, whose masks are others in each pass of an iteration."""
    cfg = config("fpn")
    model = detector(cfg)
    model.roi_heads.box_head = nn.Sequential(
        nn.Flatten(), nn.Linear(16 * 49, 16), nn.ReLU(), nn.Dropout(0.5)
    )
    images, features, proposals, targets = roi_inputs(model, batch(cfg))
    trained = []
    choose = model.roi_heads.choose_rois
    model.roi_heads.choose_rois = lambda *args: trained.append(choose(*args)) or trained[-1]

    def losses(*maps):
        inputs = dict(zip(features, maps)), [copy.copy(p) for p in proposals]
        return sum(model.roi_heads(images, *inputs, targets)[1].values())

    checkpoint(losses, *features.values(), use_reentrant=False).backward()
    first, again = ([image.proposal_boxes.tensor for image in mined] for mined in trained)
    assert all(torch.equal(a, b) for a, b in zip(first, again))
