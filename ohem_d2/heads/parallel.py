"""What ROI heads that run in several processes owe to the other ones."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.utils import comm
from torch import nn

_SHARDED = ("FSDPModule", "FullyShardedDataParallel")  # in PyTorch's second and first way


def agreed_number(network: nn.Module, number: int, itself: bool = False) -> int:
    """
    How many passes over a network this process makes that has ``number`` to make. Each pass over
    sharded parameters is one for all processes: if a part of the network is sharded, or it
    ``itself`` where it is run as a whole, the highest number of all processes; else the same.
    """
    if comm.get_world_size() == 1 or not (sharded_parts(network) or itself and _sharded(network)):
        return number
    return max(comm.all_gather(number))


def sharded_parts(network: nn.Module) -> list[str]:
    """Names of the modules in it that gather their parameters from all processes to be run."""
    parts = network.named_modules()
    return [name for name, part in parts if part is not network and _sharded(part)]


def _sharded(module: nn.Module) -> bool:
    return any(base.__name__ in _SHARDED for base in type(module).__mro__)


def reaching(result: Any, parameters: Sequence[nn.Parameter]) -> Any:
    """
    The result of the heads' ``forward``, where losses that are constants, as some of no RoI at all
    are, Detectron2's sigmoid cross entropy among them, pass gradients of 0 to the parameters. These
    would get none, and other processes would wait for it.
    """
    losses = losses_in(result)
    if all(loss.requires_grad for loss in losses.values()):
        return result
    reach = {
        name: loss if loss.requires_grad else _ZeroGradient.apply(loss, *parameters)
        for name, loss in losses.items()
    }
    return (result[0], {**result[1], **reach}, *result[2:])


def losses_in(result: Any) -> dict[str, torch.Tensor]:
    """Of what a ``forward`` in training returned; empty if it did not return any."""
    if not isinstance(result, tuple) or len(result) < 2 or not isinstance(result[1], Mapping):
        return {}
    return {name: loss for name, loss in result[1].items() if isinstance(loss, torch.Tensor)}


class _ZeroGradient(torch.autograd.Function):
    """The first argument. No product with a weight, which may be infinite, takes part."""

    @staticmethod
    def forward(ctx: Any, loss: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        ctx.parameters = [p.detach() for p in parameters]  # whose values are not looked at
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple:
        return (None, *(torch.zeros_like(p) for p in ctx.parameters))
