"""The proof that heads are ranked by what they train on."""

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import torch
from detectron2.utils.events import get_event_storage
from torch import nn

from ..compat import not_compiled, nothing_compiled
from ..mining.losses import described, losses_to_rank_by
from ..mining.scoring import depending_on_chance, in_training_mode, read_only
from ..monitor.scalars import logger
from .comparing import CLOSE, difference, leaves_of, parallel, slope, tensors
from .parallel import agreed_number, losses_in
from .training_call import TrainingCall

_NAMES = ("loss_cls", "loss_box_reg")

# Of mean losses where nothing else can be compared: relative to how much they differ from RoI to
# RoI, and to themselves
_EQUAL_LOSSES, _ROUNDING = 1e-3, 2e-6

# So many proofs are tried at once, further ones after twice as many steps each. After so many steps
# that mine it is proven again: where all scores are equal, as in the beginning, losses that differ
# may not.
_TRIES, _AGAIN = 8, (100, 1000)


@dataclasses.dataclass
class Seen:
    """
    What was seen while the parent's ``forward`` was gone through with the mined RoIs.

    Attributes:
        scored: the predictions of the read-only pass for them.
        ranked: their losses that it ranks by, each (R,).
        predictions: those that losses were computed of, or else that the predictor made.
        slopes: for each of them, if its losses are known, by name the derivatives of the trained
            and of the ranked loss by the predictions.
        losses: that ``forward`` returned.
        own_losses: that the predictor's ``losses`` returned.
    """

    scored: Any = None
    ranked: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    predictor: nn.Module | None = None
    predictions: list[Any] = dataclasses.field(default_factory=list)
    slopes: list[dict[str, tuple]] = dataclasses.field(default_factory=list)
    losses: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    own_losses: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)

    def trained(self) -> dict[str, float] | None:
        """The mean losses that are trained on, of a cascade's first stage; None if not known."""
        for losses in (self.losses, self.own_losses):
            for suffix in ("", "_stage0"):
                if all(name + suffix in losses for name in _NAMES):
                    return {name: float(losses[name + suffix]) for name in _NAMES}
        return None


class Proof:
    """
    That heads are ranked by what they train on: docs/other-heads.md says when, and what of the
    parent's ``forward``, gone through again with the mined RoIs, is compared with the read-only
    pass. Buffers are as before afterwards, but what else a ``forward`` changes is changed, too.
    """

    def __init__(self) -> None:
        self._proven: list[list] = []
        self._num_wanted = self._num_steps = 0
        self._said: set[str] = set()

    @not_compiled
    def check(self, heads: nn.Module, call: TrainingCall, result: Any) -> None:
        """
        After a call with the result of the heads' ``forward``. Raises RuntimeError, which names the
        heads and says what to do.
        """
        if call.shown is None and call.targets is not None and losses_in(result):
            self._say_once(
                f"{type(heads).__name__} was given targets and trained without a call of "
                "label_and_sample_proposals(), so nothing was mined. If its forward() samples "
                "through a method of another name, override that one so that it calls "
                "label_and_sample_proposals()"
            )
        if not call.mined or heads.ohem.implementation != "readonly":
            return  # a warm-up; or RoIs are ranked in the training pass itself
        self._num_steps += 1
        # What may change the predictions but for the parameters
        patched = ("forward", "losses", "per_roi_losses")
        state = [sum(self._num_steps > steps for steps in _AGAIN)]
        state += [(m, m.training, *map(vars(m).get, patched)) for m in heads.modules()]
        wanted = state not in self._proven and any(len(rois) for rois in call.mined[0])
        if wanted:
            self._num_wanted += 1
            is_power_of_two = not self._num_wanted & (self._num_wanted - 1)
            wanted = self._num_wanted <= _TRIES or is_power_of_two
        if agreed_number(heads, int(wanted), itself=True):
            with nothing_compiled():
                first, second = (_go_through(heads, call, seed) for seed in (0, 1))
            if wanted and self._holds(heads, first, second):
                self._proven = [*self._proven[-_TRIES:], state]
                if names := sorted({type(m).__name__ for m in depending_on_chance(heads)}):
                    self._say_once(
                        f"{type(heads).__name__} is proven to be ranked by what it trains on but "
                        f"for {', '.join(names)}: dropout rested, and batch normalization took its "
                        "running statistics",
                        "info",
                    )

    def _holds(self, heads: nn.Module, seen: Seen, other: Seen) -> bool:
        """False: there was too little to compare."""
        if not all(len(loss) and torch.isfinite(loss).all() for loss in seen.ranked.values()):
            return False
        unequal = difference(seen.scored, seen.predictions)
        if unequal is not None and unequal <= 1:
            return self._same_losses(heads, seen)
        trained = seen.trained()
        # Of predictors that are not trained yet all losses are about the same, whatever they
        # predict: what counts is how much they differ from RoI to RoI.
        if trained is not None and all(
            abs(trained[name] - loss.mean().item())
            <= max(_EQUAL_LOSSES * loss.std(correction=0).item(), _ROUNDING * loss.mean().item())
            for name, loss in seen.ranked.items()
        ):
            return True
        name, parts = type(heads).__name__, type(described(seen.predictor)).__name__
        unproven = f"That {name} is ranked by what it trains on could not be proven: "
        chance = difference(seen.predictions, [other.predictions])
        if seen.predictions and (chance is None or chance > 1):
            self._say_once(
                f"{unproven}what {parts} predicts in training depends on chance, even without "
                "dropout. In evaluation mode score_rois() should predict what is meant"
            )
        elif unequal is None and trained is None:
            self._say_once(
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
        return True

    def _same_losses(self, heads: nn.Module, seen: Seen) -> bool:
        parts = type(described(seen.predictor)).__name__
        for name in _NAMES:
            slopes = [by_name[name] for by_name in seen.slopes if name in by_name]
            if slopes and not any(parallel(*pair) for pair in slopes):
                self._refuse_losses(heads, parts, f"{name} has other derivatives")
        means = {name: loss.mean().item() for name, loss in seen.ranked.items()}
        trained = seen.trained()
        if trained is None:
            if any(all(name not in by_name for by_name in seen.slopes) for name in _NAMES):
                self._say_once(
                    f"That {type(heads).__name__} is ranked by the losses that it trains on could "
                    f"not be proven: neither forward() nor {parts}.losses() returns any that are "
                    "called loss_cls and loss_box_reg"
                )
            return True
        if any(abs(trained[k]) > 1e-4 for k, mean in means.items() if mean <= 1e-6):
            self._refuse_losses(heads, parts, f"their means are {means}, and not {trained}")
        # A factor that all losses have in common does not change the ranking; others are meant by
        # whoever set the weights of the ranking.
        factors = [trained[name] / mean for name, mean in means.items() if mean > 1e-6]
        as_set = (heads.ohem.rank_cls_weight, heads.ohem.rank_loc_weight) != (1, 1)
        both = len(factors) == 2
        unequal = both and abs(factors[0] - factors[1]) > CLOSE * max(map(abs, factors))
        if unequal and not as_set:
            ratio = factors[1] / factors[0] if factors[0] else math.inf
            said = f"their means are {means}, and not {trained}. If forward() weights them, "
            said += f"MODEL.ROI_HEADS.OHEM.RANK_LOC_WEIGHT {ratio:.3g} ranks as it trains"
            self._refuse_losses(heads, parts, said)
        # A loss that hardly differs from RoI to RoI would have this mean whatever it is.
        sure = seen.slopes or seen.ranked["loss_cls"].std(correction=0) > 0.1 * means["loss_cls"]
        return bool(sure) and (both or as_set)

    def _refuse_losses(self, heads: nn.Module, parts: str, what: str) -> None:
        raise RuntimeError(
            f"{type(heads).__name__} would be ranked by other losses than it trains on: of the "
            f"RoIs mined in iteration {get_event_storage().iter}, {what}. Describe the loss of a "
            f"RoI with a function @ohem_d2.per_roi_losses.register({parts}) of (predictor, "
            "predictions, proposals); a loss that draws at random cannot be ranked by"
        )

    def _say_once(self, message: str, level: str = "warning") -> None:
        if message not in self._said:
            self._said.add(message)
            getattr(logger, level)(message)


def _go_through(heads: nn.Module, call: TrainingCall, seed: int) -> Seen:
    seen, rois = Seen(), call.mined[0]
    made: list[Any] = []
    with contextlib.ExitStack() as stack:

        def score_and_watch() -> None:
            """Where the parameters are at hand, even if they are sharded."""
            extras = call.extras_for(heads.score_rois)
            with read_only(heads):
                seen.predictor, seen.scored = heads.score_rois(call.features, rois, 0, **extras)
                seen.ranked = losses_to_rank_by(seen.predictor, seen.scored, rois)
            hook = seen.predictor.register_forward_hook(lambda _, __, out: made.append(out))
            stack.callback(hook.remove)
            inner = described(seen.predictor)
            if hasattr(inner, "losses"):
                stack.enter_context(_watched_losses(inner, rois, seen))

        with in_training_mode(heads, seed):
            seen.losses = losses_in(call.again(heads, score_and_watch))
    seen.predictions = seen.predictions or made
    return seen


@contextlib.contextmanager
def _watched_losses(predictor: nn.Module, rois: list, seen: Seen) -> Iterator[None]:
    """Within the context, what the ``losses`` of the predictor is given is noted."""
    losses, before = predictor.losses, vars(predictor).get("losses")

    def watched(predictions: Any, *args: Any, **kwargs: Any) -> Any:
        # What is kept for these derivatives is no concern of a checkpoint around the heads.
        as_is = torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x)
        with torch.enable_grad(), as_is:
            leaves = leaves_of(predictions)
            found = losses(leaves, *args, **kwargs)
            ranked = {}
            if sum(len(r) for r in rois) == len(next(tensors(leaves), ())):
                seen.own_losses = dict(found) if isinstance(found, dict) else {}
                # The description may want what is scored, of which losses may be given a part.
                with contextlib.suppress(Exception):
                    ranked = losses_to_rank_by(predictor, leaves, rois)
            seen.predictions.append(leaves_of(leaves))
            seen.slopes.append(
                {
                    name: tuple(slope(loss, leaves) for loss in (found[name], ranked[name].mean()))
                    for name in _NAMES
                    if name in ranked and name in seen.own_losses
                }
            )
        return found

    vars(predictor)["losses"] = watched
    try:
        yield
    finally:
        del vars(predictor)["losses"]
        if before is not None:
            vars(predictor)["losses"] = before
        seen.slopes = [by_name for by_name in seen.slopes if by_name]
