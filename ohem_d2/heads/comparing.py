"""Whether predictions, and derivatives of losses, are equal but for rounding."""

import math
from collections.abc import Iterator
from typing import Any

import torch

# Relative to the largest number, and in half precision. Both passes compute the same with the same
# RoIs, though not always in the same order.
_CLOSE, _CLOSE_IN_HALF = 1e-3, 3e-2

# Of derivatives, and of mean losses
CLOSE = 2e-2


def slope(loss: torch.Tensor, leaves: Any) -> torch.Tensor:
    """The derivatives of a loss by all numbers of the predictions; one zero if it has none."""
    inputs = [t for t in tensors(leaves) if t.requires_grad]
    if not loss.requires_grad:
        return torch.zeros(1)
    found = torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True)
    parts = [g if g is not None else torch.zeros_like(t) for g, t in zip(found, inputs)]
    return torch.cat([part.float().flatten() for part in parts])


def parallel(trained: torch.Tensor, ranked: torch.Tensor) -> bool:
    """Whether the one is a multiple of the other."""
    if trained.shape != ranked.shape:  # one of them is a constant
        return not trained.any() and not ranked.any()
    sizes = trained.norm().item(), ranked.norm().item()
    if not all(map(math.isfinite, sizes)) or max(sizes) < 1e-6:  # nothing but rounding
        return True
    rest = trained - (trained @ ranked).item() / max(sizes[1] ** 2, 1e-12) * ranked
    return rest.norm().item() <= CLOSE * sizes[0]


def difference(scored: Any, outputs: list[Any]) -> float | None:
    """
    Between what was scored and the closest of the outputs for as many RoIs, in multiples of what
    rounding explains; None if there is none. An output may have a part of what was scored.
    """
    wanted, differences = list(tensors(scored)), []
    for output in outputs:
        found = list(tensors(output))
        if wanted and found and len(found[0]) == len(wanted[0]):
            differences.append(max(map(_distance, wanted, found)))
    return min(differences, default=None)


def _distance(wanted: torch.Tensor, found: torch.Tensor) -> float:
    if wanted.shape != found.shape:
        return math.inf
    in_half = any(tensor.element_size() < 4 for tensor in (wanted, found))
    close = _CLOSE_IN_HALF if in_half else _CLOSE
    wanted, found = wanted.detach().float(), found.detach().float()
    finite = torch.isfinite(wanted) & torch.isfinite(found)
    wanted, found = wanted[finite], found[finite]
    if not len(wanted):
        return 0.0
    scale = wanted.abs().max().clamp(min=1e-3)
    return ((wanted - found).abs().max() / (close * scale)).item()


def tensors(value: Any) -> Iterator[torch.Tensor]:
    """Those with a row for each RoI, in whatever the predictions are."""
    if isinstance(value, torch.Tensor) and value.dim():
        yield value
    elif isinstance(value, (list, tuple, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from tensors(part)


def leaves_of(value: Any) -> Any:
    """The same numbers, for derivatives by them."""
    if isinstance(value, torch.Tensor):
        value = value.detach()
        return value.requires_grad_() if value.is_floating_point() else value
    if type(value) in (list, tuple):
        return type(value)(leaves_of(part) for part in value)
    return value
