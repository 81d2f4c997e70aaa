"""What ROI heads that run in several processes owe to the other ones."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.utils import comm
from torch import nn

_SHARDED = ("FSDPModule", "FullyShardedDataParallel")  # in PyTorch's second and first way


def agreed_number(network: nn.Module, number: int, itself: bool = False) -> int:
    """
    How often parts of a network, or it ``itself`` as a whole, are to be run that this process would
    run ``number`` times: if what is run is sharded, as often as by any process, since each pass
    over sharded parameters is one for all processes; else as often.
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
    The result of a ``forward``, with losses of the same values that pass gradients of 0 to all
    parameters where they are constants. Some losses of no RoI at all are, Detectron2's sigmoid
    cross entropy among them; other processes would wait for the gradients.
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
