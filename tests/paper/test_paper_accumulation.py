"""Gradient accumulation, against gradients that are taken by hand."""

import copy
import inspect
import os
import time
from pathlib import Path

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.engine import AMPTrainer, HookBase, SimpleTrainer, create_ddp_model, launch
from detectron2.utils.events import EventStorage
from models import batch, config, detector
from torch import nn

from projects.paper.ohem_paper.accumulation import (
    AccumulatingTrainer,
    accumulating,
    add_accumulation_config,
)


class Regression(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3, 1)

    def forward(self, x):
        y = self.linear(x)
        return {"loss_a": (y**2).mean(), "loss_b": y.abs().mean()}


def data(num, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(4, 3, generator=generator) for _ in range(num)]


def trainer_of(model, batches, passes=1):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    trainer = accumulating(SimpleTrainer(model, batches, optimizer), passes)
    trainer.iter = 0
    return trainer


def by_hand(model, batches, passes, optimizer):
    for start in range(0, len(batches), passes):
        losses = [sum(model(b).values()) for b in batches[start : start + passes]]
        optimizer.zero_grad()
        (sum(losses) / passes).backward()
        optimizer.step()


@pytest.mark.parametrize("passes", [2, 3])
def test_steps_are_those_of_the_mean_gradient(passes):
    model, batches = Regression(), data(2 * passes)
    reference = copy.deepcopy(model)
    by_hand(
        reference, batches, passes, torch.optim.SGD(reference.parameters(), lr=0.1, momentum=0.9)
    )
    trainer = trainer_of(model, batches, passes=passes)
    with EventStorage() as storage:
        trainer.run_step()
        trainer.run_step()
        logged = storage.latest()
    torch.testing.assert_close(model.state_dict(), reference.state_dict())
    assert logged["total_loss"][0] == pytest.approx(logged["loss_a"][0] + logged["loss_b"][0])


def test_logs_the_mean_of_the_passes():
    model, batches = Regression(), data(2)
    expected = sum(model(b)["loss_a"].item() for b in batches) / 2
    with EventStorage() as storage:
        trainer_of(model, batches, passes=2).run_step()
        assert storage.latest()["loss_a"][0] == pytest.approx(expected)


def test_two_passes_of_an_image_are_a_batch_of_two(storage):
    """With as many hard RoIs in either image, as the paper's N = 2 has."""
    cfg = config("fpn", "MODEL.RPN.BATCH_SIZE_PER_IMAGE", 10**6)
    inputs = batch(cfg)
    gradients = []
    for passes in (1, 2):
        model = detector(cfg)
        # the RPN normalizes by the number of images, and its own sampling is random
        model.proposal_generator.requires_grad_(False)
        trainer = trainer_of(
            model, [inputs] if passes == 1 else [[i] for i in inputs], passes=passes
        )
        trainer.run_step()
        gradients.append({n: p.grad for n, p in model.roi_heads.named_parameters()})
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-6)


def test_options_of_the_trainer_stay():
    model = Regression()
    trainer = SimpleTrainer(model, data(2), torch.optim.SGD(model.parameters(), lr=0.1))
    trainer.gather_metric_period = 5
    assert accumulating(trainer, 2).gather_metric_period == 5


def test_the_key_is_added_once():
    cfg = get_cfg()
    add_accumulation_config(cfg)
    assert cfg.SOLVER.ACCUMULATION_STEPS == 1
    cfg.SOLVER.ACCUMULATION_STEPS = 3
    add_accumulation_config(cfg)
    assert cfg.SOLVER.ACCUMULATION_STEPS == 3


@pytest.mark.skipif(
    not hasattr(HookBase, "after_backward"), reason="not in this version of Detectron2"
)
def test_hooks_see_the_whole_gradient_before_the_step():
    model, batches = Regression(), data(2)
    before = copy.deepcopy(model)
    seen = []

    class Look(HookBase):
        def after_backward(self):
            seen.append((model.linear.weight.detach().clone(), model.linear.weight.grad.clone()))

    trainer = trainer_of(model, batches, passes=2)
    trainer.register_hooks([Look()])
    with EventStorage():
        trainer.run_step()
    (sum(sum(before(b).values()) for b in batches) / 2).backward()
    ((weight, gradient),) = seen
    assert torch.equal(weight, before.linear.weight)
    torch.testing.assert_close(gradient, before.linear.weight.grad)


def test_one_pass_is_detectron2s_own_trainer():
    trainer = SimpleTrainer(Regression(), [], None)
    assert accumulating(trainer, 1) is trainer


@pytest.mark.parametrize("passes", [0, -1, 1.5, True])
def test_refuses_impossible_numbers(passes):
    with pytest.raises(ValueError, match="ACCUMULATION_STEPS"):
        accumulating(SimpleTrainer(Regression(), [], None), passes)


def test_refuses_trainers_with_steps_of_their_own():
    class Own(SimpleTrainer):
        pass

    for kind in (Own, AMPTrainer):
        with pytest.raises(TypeError, match=f"{kind.__name__} has its own; allowed: 1"):
            accumulating(kind(Regression(), [], None), 2)


def _two_processes(path):
    from detectron2.utils import comm

    rank = comm.get_rank()
    plain = Regression()
    model = create_ddp_model(plain, device_ids=None)
    exchanges = []

    def exchange(state, bucket):
        exchanges.append(None)
        from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

        return allreduce_hook(state, bucket)

    model.register_comm_hook(None, exchange)
    trainer = trainer_of(model, data(2, seed=rank), passes=2)
    assert type(trainer) is AccumulatingTrainer
    with EventStorage():
        trainer.run_step()
    torch.save((plain.linear.state_dict(), len(exchanges)), f"{path}/{rank}.pth")
    # All is on disk. PyTorch at times aborts a process while it takes gloo's threads down; so both
    # end without that, once neither needs the other.
    while len(list(Path(path).glob("*.pth"))) < 2:
        time.sleep(0.01)
    os._exit(0)


@pytest.mark.skipif(
    not torch.cuda.is_available() and "GLOO" not in inspect.getsource(inspect.getmodule(launch)),
    reason="this version of Detectron2 launches several processes only on GPUs",
)
def test_two_processes(tmp_path):
    launch(_two_processes, 2, num_machines=1, dist_url="auto", args=(str(tmp_path),))
    reference = Regression()
    batches = data(2, seed=0) + data(2, seed=1)
    by_hand(reference, batches, 4, torch.optim.SGD(reference.parameters(), lr=0.1, momentum=0.9))
    for rank in range(2):
        weights, exchanges = torch.load(tmp_path / f"{rank}.pth")
        torch.testing.assert_close(weights, dict(reference.linear.state_dict()))
        assert exchanges == 1
