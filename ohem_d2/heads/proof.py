"""The proof that heads are ranked by what they train on."""

import contextlib
import logging
import math
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
from .parallel import agreed_number, losses_in
from .training_call import TrainingCall

logger = logging.getLogger(LOGGER_NAME)

# Relative to the largest prediction. Both passes compute the same with the same RoIs, though not
# always in the same order.
_CLOSE = {torch.float32: 1e-3, torch.float64: 1e-3}
_CLOSE_IN_HALF = 3e-2
# Of losses, where the predictions are equal anyway, and where nothing else can be compared
_CLOSE_LOSSES, _EQUAL_LOSSES, _ROUNDING = 2e-2, 1e-3, 2e-6


class Proof:
    """
    That heads are ranked by what they train on. In the first iteration that mines, and again when
    a module was replaced, its mode was changed or its losses were, the parent's ``forward`` is gone
    through once more with the mined RoIs, without gradients: the predictions that it computes the
    losses of, in training mode but for dropout and batch normalization, are compared with those of
    the read-only pass for these RoIs, and the losses with the means of those that RoIs are ranked
    by.
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
        if not call.sampled and call.targets is not None and losses_in(result):
            self._warn_once(
                f"{type(heads).__name__} was given targets and trained without a call of "
                "label_and_sample_proposals(), so nothing was mined. If its forward() samples "
                "through a method of another name, override that one so that it calls "
                "label_and_sample_proposals()"
            )
        if call.mined is None or heads.ohem.implementation != "readonly":
            return  # a warm-up; or RoIs are ranked in the training pass itself
        state = _state(heads)
        wanted = state != self._proven and any(len(rois) for rois in call.mined)
        if agreed_number(heads, int(wanted)) and self._prove(heads, call) and wanted:
            self._proven = state

    def _prove(self, heads: nn.Module, call: TrainingCall) -> bool:
        """Whether that was possible: a batch may have nothing to compare."""
        rois, extras = call.mined, call.extras_for(heads.score_rois)
        with nothing_compiled():
            with read_only(heads):
                predictor, scored = heads.score_rois(call.features, rois, 0, **extras)
                ranked = losses_to_rank_by(predictor, scored, rois)
            with in_training_mode(heads):
                outputs, losses = _again(heads, call, predictor)
                trained = _trained_losses(losses, described(predictor), outputs, rois)
            if not all(len(loss) and torch.isfinite(loss).all() for loss in ranked.values()):
                return False
            means = {key: loss.mean().item() for key, loss in ranked.items()}
            unequal = _difference(scored, outputs)
            if unequal is not None and unequal <= 1:
                return self._compare_losses(heads, predictor, means, trained)
            # Of predictors that are not trained yet all losses are about the same, whatever they
            # predict: what counts is how much they differ from RoI to RoI.
            spread = {key: loss.std(correction=0).item() for key, loss in ranked.items()}
            if trained is not None and all(
                abs(trained[key] - mean) <= max(_EQUAL_LOSSES * spread[key], _ROUNDING * mean)
                for key, mean in means.items()
            ):
                return True
            with in_training_mode(heads, seed=1):
                _, other = _again(heads, call, predictor)
        by_chance = losses.keys() == other.keys() and any(
            not torch.equal(loss, other[key]) for key, loss in losses.items()
        )
        self._refuse_predictions(heads, predictor, unequal is None and trained is None, by_chance)
        return True

    def _refuse_predictions(self, heads, predictor, unknown: bool, by_chance: bool) -> None:
        name, parts = type(heads).__name__, type(described(predictor)).__name__
        unproven = f"That {name} is ranked by what it trains on could not be proven: "
        if by_chance:
            self._warn_once(
                f"{unproven}what it trains on depends on chance, even without dropout. In "
                "evaluation mode score_rois() should predict what is meant"
            )
        elif unknown:
            self._warn_once(
                f"{unproven}its training pass calls neither {parts} with the mined RoIs nor its "
                "losses(). If it predicts in another way, override score_rois() accordingly"
            )
        else:
            raise RuntimeError(
                f"{name} would be ranked by other predictions than it trains on: for the RoIs "
                f"mined in iteration {get_event_storage().iter}, score_rois() and the training "
                f"pass of {parts} differ. Override score_rois(self, features, proposals, stage=0) "
                "so that it predicts, with the heads in evaluation mode, as forward() does in "
                "training; it may name further arguments of forward()"
            )

    def _compare_losses(self, heads, predictor, means, trained) -> bool:
        name, parts = type(heads).__name__, type(described(predictor)).__name__
        if trained is None:
            self._warn_once(
                f"That {name} is ranked by the losses that it trains on could not be proven: its "
                f"forward() returns none that are called loss_cls and loss_box_reg, nor does "
                f"{parts}"
            )
            return True
        # A factor that all losses have in common does not change the ranking.
        factors = [trained[key] / mean for key, mean in means.items() if mean > 1e-6]
        spread = max(factors, default=1.0) - min(factors, default=1.0)
        alone = [key for key, mean in means.items() if mean <= 1e-6 and abs(trained[key]) > 1e-4]
        if alone or spread > _CLOSE_LOSSES * max(map(abs, factors), default=1.0):
            raise RuntimeError(
                f"{name} would be ranked by other losses than it trains on: for the RoIs mined in "
                f"iteration {get_event_storage().iter} the means of their losses are {means}, but "
                f"what is trained on is {trained}. Describe the loss of a RoI with a function "
                f"@ohem_d2.per_roi_losses.register({parts}) of (predictor, predictions, "
                "proposals); a loss that draws at random cannot be ranked by"
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
    Between what was scored and the closest of the outputs for as many RoIs, in multiples of what
    rounding explains; None if there is none. An output may have a part of what was scored.
    """
    wanted, differences = list(_tensors(scored)), []
    for output in outputs:
        found = list(_tensors(output))
        if wanted and found and len(found[0]) == len(wanted[0]):
            differences.append(max(map(_distance, wanted, found)))
    return min(differences, default=None)


def _distance(wanted: torch.Tensor, found: torch.Tensor) -> float:
    if wanted.shape != found.shape:
        return math.inf
    close = max(_CLOSE.get(tensor.dtype, _CLOSE_IN_HALF) for tensor in (wanted, found))
    wanted, found = wanted.float(), found.float()
    finite = torch.isfinite(wanted) & torch.isfinite(found)
    wanted, found = wanted[finite], found[finite]
    if not len(wanted):
        return 0.0
    scale = wanted.abs().max().clamp(min=1e-3)
    return ((wanted - found).abs().max() / (close * scale)).item()


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        if value.dim():
            yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)


def _trained_losses(
    losses: dict[str, torch.Tensor], predictor: nn.Module, outputs: list, rois: list[Instances]
) -> dict[str, float] | None:
    """
    Of the heads, where they go by the usual names, of a cascade's first stage; else of the
    predictor, if it has any.
    """
    wanted = ("loss_cls", "loss_box_reg")
    for suffix in ("", "_stage0"):
        if all(key + suffix in losses for key in wanted):
            return {key: float(losses[key + suffix]) for key in wanted}
    if outputs and hasattr(predictor, "losses"):
        with contextlib.suppress(Exception):  # it may take more than that
            found = predictor.losses(outputs[0], rois)
            return {key: float(found[key]) for key in wanted}
    return None
