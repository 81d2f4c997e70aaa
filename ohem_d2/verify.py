"""Check that RoIs are ranked by the losses that heads train on. Compares means of both."""

import math
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm

from .mining.losses import NAMES
from .mining.scoring import BATCH_NORMS, DROPOUTS

# Relative tolerances of mean losses. In half precision, the chunk size changes the rounding.
_CLOSE, _CLOSE_IN_HALF = 2e-3, 2e-2


def verify(heads: nn.Module, ranked: dict[str, Tensor], losses: Mapping[str, Tensor]) -> str:
    """
    Compare the losses that the mined RoIs were ranked by, each (R,), with the losses that
    ``forward`` returned. They may differ by a common factor, and by the weights of the ranking.
    Returns a message for the log, or "". Raises RuntimeError, which says what to do.
    """
    name, found = type(heads).__name__, [losses.get(n, losses.get(f"{n}_stage0")) for n in NAMES]
    layers, unchecked = differs_in_training(heads), "is not compared with what it trains on"
    if layers:
        return f"{name} {unchecked}: {', '.join(layers)} makes losses in training differ"
    if None in found:
        return f"{name} {unchecked}: its forward() returns no {' and '.join(NAMES)}"
    means = [float(ranked[n].mean()) for n in NAMES]
    (cls, loc), (mean_cls, mean_loc) = map(float, found), means
    if not all(map(math.isfinite, (cls, loc, *means))) or mean_cls < 1e-6:
        return ""  # no RoI, or nothing left to learn: try the next time
    factor, weight = cls / mean_cls, heads.ohem.rank_loc_weight / (heads.ohem.rank_cls_weight or 1)
    in_half = torch.is_autocast_enabled() or torch.is_autocast_cpu_enabled()
    close = _CLOSE_IN_HALF if heads.ohem.readonly_precision or in_half else _CLOSE
    expected = [factor * mean_loc, factor * mean_loc * weight]
    if any(math.isclose(loc, e, rel_tol=close, abs_tol=1e-5) for e in expected):
        scaled = f"{name} trains on {factor:.3g} times the losses that it is ranked by"
        return scaled if abs(factor - 1) > 0.01 else ""
    ratio = loc / expected[0] if expected[0] else math.inf
    raise RuntimeError(
        f"{name} would be ranked by other losses than it trains on: loss_cls and loss_box_reg of "
        f"the mined RoIs are {means} in the ranking and {[cls, loc]} in training. If it does not "
        "predict through box_pooler, box_head and box_predictor, override score_rois(self, "
        "features, proposals). If its losses are others, describe them with "
        f"@ohem_d2.per_roi_losses.register. If it weights them, RANK_LOC_WEIGHT {ratio:.3g} ranks "
        "as it trains. ohem_d2.testing.check_heads tells which; VERIFY False turns this off"
    )


def differs_in_training(network: nn.Module) -> list[str]:
    """Class names of the layers that make losses in training differ from the read-only pass."""
    parts, kinds = [m for m in network.modules() if m.training], (DROPOUTS, BATCH_NORMS)
    hooks = [hook for m in parts for hook in m._forward_pre_hooks.values()]
    kinds = (*kinds, _SpectralNorm, SpectralNorm)
    return sorted({type(m).__name__ for m in (*parts, *hooks) if isinstance(m, kinds)})


def losses_in(result: Any) -> MutableMapping[str, Tensor]:
    """The losses that a ``forward`` in training returned; empty if it returned none."""
    parts = result if isinstance(result, tuple) else (result,)
    return next((part for part in parts if isinstance(part, MutableMapping)), {})


def with_gradients(losses: MutableMapping, parameters: Iterable[nn.Parameter]) -> None:
    """Give constant losses (no RoIs) zero gradients: with DDP, other processes wait for them."""
    constant = [n for n, x in losses.items() if isinstance(x, Tensor) and not x.requires_grad]
    if constant and torch.is_grad_enabled():
        # Sums over no elements, since 0 * weight would be NaN for an infinite weight.
        zero = sum(p.flatten()[:0].sum() for p in parameters if p.requires_grad)
        losses.update({name: losses[name] + zero for name in constant})
