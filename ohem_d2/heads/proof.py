"""The proof that heads are ranked by what they train on."""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import torch
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage
from torch import nn

from ..compat import not_compiled, nothing_compiled
from ..mining.losses import described, losses_to_rank_by
from ..mining.scoring import in_training_mode, read_only
from ..monitor.scalars import LOGGER_NAME
from .parallel import losses_in
from .training_call import TrainingCall

logger = logging.getLogger(LOGGER_NAME)

# Relative to the largest prediction, and of losses. Both passes compute the same with the same
# RoIs, though not in the same order.
_CLOSE = {torch.float32: 1e-3, torch.float64: 1e-3}
_CLOSE_IN_HALF = 3e-2
_CLOSE_LOSSES = 2e-2


class Proof:
    """
    That heads are ranked by what they train on. In the first iteration that mines, and again when
    a module was replaced, its mode was changed or its losses were, the parent's ``forward`` is gone
    through once more with the mined RoIs, without gradients: what the box predictor predicts there,
    in training mode but for dropout and batch normalization, is compared with what the read-only
    pass predicts for these RoIs, and the losses with the means of those that RoIs are ranked by.
    """

    def __init__(self) -> None:
        self._proven: list | None = None
        self._warned: set[str] = set()

    @not_compiled
    def check(self, heads: nn.Module, call: TrainingCall, result: Any) -> None:
        """
        Args:
            call: that has just been made.
            result: of the heads' ``forward``.

        Raises:
            RuntimeError: names the heads and says what to do.
        """
        if not call.sampled:
            if call.targets is not None and losses_in(result):
                self._warn_once(
                    f"{type(heads).__name__} was given targets and trained without a call of "
                    "label_and_sample_proposals(), so nothing was mined. If its forward() samples "
                    "through a method of another name, override that one so that it calls "
                    "label_and_sample_proposals()"
                )
            return
        if heads.ohem.implementation != "readonly":
            return  # it ranks in the training pass
        state = _state(heads)
        if not call.mined or state == self._proven or not sum(len(p) for p in call.mined):
            return
        if self._prove(heads, call):
            self._proven = state

    def _prove(self, heads: nn.Module, call: TrainingCall) -> bool:
        """Whether it was possible: a batch may have nothing to compare."""
        rois, extras = call.mined, call.extras_for(heads.score_rois)
        with nothing_compiled(), read_only(heads):
            predictor, scored = heads.score_rois(call.features, rois, 0, **extras)
            ranked = losses_to_rank_by(predictor, scored, rois)
        with nothing_compiled(), in_training_mode(heads):
            outputs, losses = _again(heads, call, predictor)
            difference = _difference(scored, outputs)
            if difference is None or difference > 1:
                repeated, _ = _again(heads, call, predictor)
                self._unequal(heads, predictor, difference, outputs, repeated)
                return True
            trained = _trained_losses(losses, described(predictor), outputs, rois)
        return self._compare_losses(heads, predictor, ranked, trained)

    def _unequal(self, heads, predictor, difference, outputs, repeated) -> None:
        name, parts = type(heads).__name__, type(described(predictor)).__name__
        unproven = f"That {name} is ranked by what it trains on could not be proven: "
        if difference is None:
            self._warn_once(
                f"{unproven}its training pass does not call {parts} with the mined RoIs. If it "
                "predicts in another way, override score_rois() so that it predicts alike"
            )
        elif (chance := _difference(outputs[0], repeated)) is None or chance > 1:
            self._warn_once(
                f"{unproven}what {parts} predicts in training depends on chance, even without "
                "dropout. In evaluation mode score_rois() should predict what is meant"
            )
        else:
            raise RuntimeError(
                f"{name} would be ranked by other predictions than it trains on: for the RoIs "
                f"mined in iteration {get_event_storage().iter}, score_rois() and the training "
                f"pass of {parts} differ. Override score_rois(self, features, proposals, stage=0) "
                "so that it predicts, with the heads in evaluation mode, as forward() does in "
                "training"
            )

    def _compare_losses(self, heads, predictor, ranked, trained) -> bool:
        name, parts = type(heads).__name__, type(described(predictor)).__name__
        if trained is None:
            self._warn_once(
                f"That {name} is ranked by the losses that it trains on could not be proven: its "
                f"forward() returns none that are called loss_cls and loss_box_reg, and {parts} "
                "has no losses()"
            )
            return True
        means = {key: loss.mean().item() for key, loss in ranked.items()}
        values = {key: float(trained[key]) for key in means}
        if not all(torch.isfinite(loss).all() for loss in ranked.values()):
            return False
        # A factor that all losses have in common does not change the ranking.
        factors = [values[key] / mean for key, mean in means.items() if mean > 1e-6]
        unequal = max(factors, default=1.0) - min(factors, default=1.0)
        if unequal > _CLOSE_LOSSES * max(map(abs, factors), default=1.0) or any(
            abs(values[key]) > 1e-4 for key, mean in means.items() if mean <= 1e-6
        ):
            raise RuntimeError(
                f"{name} would be ranked by other losses than it trains on: for the RoIs mined in "
                f"iteration {get_event_storage().iter} the means of their losses are {means}, but "
                f"what is trained on is {values}. Describe the loss of a RoI with a function "
                f"@ohem_d2.per_roi_losses.register({parts}) of (predictor, predictions, proposals)"
            )
        return len(factors) == len(means) or abs(factors[0] - 1) <= _CLOSE_LOSSES

    def _warn_once(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            logger.warning(message)


def _state(heads: nn.Module) -> list:
    """What may change the predictions but for the parameters."""
    patched = ("forward", "losses", "per_roi_losses")
    return [
        (module, module.training, *(vars(module).get(name) for name in patched))
        for module in heads.modules()
    ]


def _again(heads: nn.Module, call: TrainingCall, predictor: nn.Module) -> tuple[list, dict]:
    """
    ``forward`` is gone through again: all predictions that the predictor's ``losses`` is given, or,
    where it is not called, that the predictor makes; and the losses.
    """
    inner = described(predictor)
    made: list[Any] = []
    given: list[Any] = []
    losses = getattr(inner, "losses", None)
    before = {key: value for key, value in vars(inner).items() if key == "losses"}

    def note_made(_module: nn.Module, _inputs: Any, output: Any) -> None:
        made.append(output)

    def note_given(predictions: Any, *args: Any, **kwargs: Any) -> Any:
        given.append(predictions)
        return losses(predictions, *args, **kwargs)

    if losses is not None:
        vars(inner)["losses"] = note_given
    try:
        with predictor.register_forward_hook(note_made):
            found = losses_in(call.again(heads))
    finally:
        vars(inner).pop("losses", None)
        vars(inner).update(before)
    return given or made, found


def _difference(scored: Any, outputs: list[Any]) -> float | None:
    """
    Of the closest of the outputs that have as many rows, in multiples of what rounding explains;
    None if none has.
    """
    wanted, differences = list(_tensors(scored)), []
    for output in outputs:
        found = list(_tensors(output))
        if [t.shape for t in found] == [t.shape for t in wanted]:
            differences.append(max(map(_distance, wanted, found), default=0.0))
    return min(differences, default=None)


def _distance(wanted: torch.Tensor, found: torch.Tensor) -> float:
    close = min(_CLOSE.get(t.dtype, _CLOSE_IN_HALF) for t in (wanted, found))
    wanted, found = wanted.float(), found.float()
    same = (wanted == found) | ~(torch.isfinite(wanted) & torch.isfinite(found))
    scale = torch.where(same, 0.0, wanted.abs()).amax().clamp(min=1e-3) if wanted.numel() else 1.0
    return (
        float((torch.where(same, 0.0, (wanted - found).abs()) / (close * scale)).max().item())
        if wanted.numel()
        else 0.0
    )


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)


def _trained_losses(
    losses: dict[str, torch.Tensor],
    predictor: nn.Module,
    outputs: list[Any],
    rois: list[Instances],
) -> dict[str, torch.Tensor] | None:
    """Of the heads, where they go by the usual names, the first stage's of a cascade; else those of
    the predictor, if it has any."""
    for suffix in ("", "_stage0"):
        found = {key: losses.get(key + suffix) for key in ("loss_cls", "loss_box_reg")}
        if all(loss is not None for loss in found.values()):
            return found
    if hasattr(predictor, "losses"):
        with contextlib.suppress(Exception):
            found = predictor.losses(outputs[0], rois)
            return {key: found[key] for key in ("loss_cls", "loss_box_reg")}
    return None
