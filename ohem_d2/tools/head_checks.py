"""For authors of heads: are RoIs ranked by the losses trained on? Like autograd's gradcheck."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest import mock

import torch
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from ..heads import OHEMMixin
from ..mining.losses import NAMES, losses_to_rank_by
from ..mining.record import Call
from ..mining.scoring import BATCH_NORMS, DROPOUTS, evaluating, losses_of_all, same_state
from ..monitor.scalars import MiningMonitor
from ..verify import losses_in

_HOOKS = ("label_and_sample_proposals", "_match_and_label_boxes")  # the second: cascades
_with = functools.partial(mock.patch.multiple, create=True)


def check_heads(
    heads: OHEMMixin,
    images: Any,
    features: dict[str, Tensor],
    proposals: list[Instances],
    targets: list[Instances],
    *args: Any,
    **kwargs: Any,
) -> None:
    """
    Run a training step of OHEM heads, ``heads(images, features, proposals, targets, ...)``. Raise
    AssertionError, which says all that is wrong, unless

    - losses and gradients are those of the parent's ``forward`` on the mined RoIs;
    - the losses that RoIs are ranked by have the means and derivatives of ``loss_cls`` and
      ``loss_box_reg`` (from ``forward``, or else the predictor's ``losses``) up to a common factor;
    - the losses of a RoI do not depend on the other RoIs scored with it, and scoring leaves no
      trace in buffers, modes and the log.

    Dropout and batch normalization are switched off, because they would make equal losses differ.
    RuntimeError if there is nothing to compare. The heads are left as they were.
    """
    if torch.is_inference_mode_enabled() or not heads.training:
        raise RuntimeError("check_heads takes heads in training mode, outside of inference_mode()")
    features = {name: x.detach().clone() for name, x in features.items()}
    at_once = dataclasses.replace(heads.ohem, verify=False, warmup_iters=0)

    def step(hooks: dict[str, Callable]) -> dict[str, tuple[Tensor, Tensor]]:
        copies = ([_copied(x) for x in instances] for instances in (proposals, targets))
        fresh = {"_call": None, "_monitor": MiningMonitor(), "_num_mined": 0, "_past_warmup": True}
        with _with(heads, ohem=at_once, **fresh, **hooks), same_state(heads), EventStorage():
            return _slopes(losses_in(heads(images, features, *copies, *args, **kwargs)), heads)

    frozen = [p for p in heads.parameters() if p.is_floating_point() and not p.requires_grad]
    with contextlib.ExitStack() as stack:
        for parameter in frozen:  # a frozen classifier has a loss too
            stack.callback(parameter.requires_grad_(True).requires_grad_, False)
        stack.enter_context(torch.enable_grad())
        stack.enter_context(evaluating(heads, (DROPOUTS, BATCH_NORMS)))
        faults = list(_faults(heads, Call(images, features, is_iteration=False), step))
    if faults:
        raise AssertionError(f"{type(heads).__name__}: {'; '.join(faults)}")


def _faults(heads: OHEMMixin, call: Call, step: Callable) -> Iterator[str]:
    taken: dict[str, list] = {name: [] for name in _HOOKS if hasattr(heads, name)}

    def recording(name: str, hook: Callable) -> Callable:
        def recorded(*args: Any, **kwargs: Any) -> list[Instances]:
            taken[name].append(hook(*args, **kwargs))
            return _for_training(taken[name][-1])

        return recorded

    def repeating(batches: Iterator[list[Instances]]) -> Callable:
        return lambda *args, **kwargs: _for_training(next(batches))

    modes = [module.training for module in heads.modules()]  # before anything is scored
    ours = step({name: recording(name, getattr(heads, name)) for name in taken})
    again = {name: repeating(iter(batches)) for name, batches in taken.items()}
    parents = step({"forward": super(OHEMMixin, heads).forward, **again})
    if _differ(ours, parents):
        yield "losses or gradients are not those of the parent on the mined RoIs"
    mined = [rois for batch in taken[_HOOKS[0]] for rois in batch]
    if not any((rois.gt_classes < heads.num_classes).any() for rois in mined):
        why = "" if mined else f", as forward() does not call {_HOOKS[0]}()"
        raise RuntimeError(f"no foreground is mined{why}: there is too little to compare")

    def score(rois: list[Instances]) -> tuple[nn.Module, Any]:
        return heads.score_rois(call.features, rois)

    with _with(heads, _call=call), EventStorage() as storage:
        buffers = [buffer.clone() for buffer in heads.buffers()]
        in_chunks = losses_of_all(heads, score, mined, chunk_size=7)
        unequal = [module.training for module in heads.modules()] != modes
        if unequal or _differ(list(heads.buffers()), buffers):
            yield "scoring leaves a trace in buffers or modes"
        if storage.latest():
            yield "scoring leaves a trace in the log"
        with evaluating(heads), same_state(heads):
            predictor, predictions = score(mined)
            losses = losses_to_rank_by(predictor, predictions, mined)
            ranked = _slopes({name: loss.mean() for name, loss in losses.items()}, heads)
            if _differ(in_chunks, losses):
                yield "the losses of a RoI depend on which others are scored with it"
            lacking = [n for n in NAMES if not {n, f"{n}_stage0"} & parents.keys()]
            if lacking and hasattr(predictor, "losses"):
                parents = {**_slopes(predictor.losses(predictions, mined), heads), **parents}
    factors = {}
    for name in NAMES:
        if not (found := [parents[n] for n in (f"{name}_stage0", name) if n in parents]):
            yield f"neither forward() nor the predictor's losses() returns {name}"
            continue
        (trained, slope), (mean, own) = found[0], ranked[name]
        factor = float(slope @ own / (own @ own))
        if _differ(slope, factor * own):
            how = "override score_rois() if forward() predicts otherwise, or describe the loss"
            yield f"{name} has other derivatives than what RoIs are ranked by: {how}"
        elif _differ(trained, factor * mean):
            yield f"{name} is {trained:.5g}, and {mean:.5g} in the ranking, which is another loss"
        else:
            factors[name] = factor
    ratio = factors[NAMES[1]] / factors[NAMES[0]] if len(factors) == len(NAMES) else 1.0
    weights = 1.0, heads.ohem.rank_loc_weight / (heads.ohem.rank_cls_weight or 1.0)
    if all(abs(ratio / weight - 1) > 0.01 for weight in weights if weight):
        yield f"forward() weights the losses: RANK_LOC_WEIGHT {ratio:.3g} ranks as it trains"


def _slopes(losses: Mapping[str, Tensor], heads: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """The value of each loss, and its derivatives with respect to all parameters of the heads."""
    parameters, found = [p for p in heads.parameters() if p.requires_grad], {}
    for name, loss in losses.items():
        loss = loss + sum(0 * p.sum() for p in parameters)  # so that each has a derivative
        slopes = torch.autograd.grad(loss, parameters, retain_graph=True)
        found[name] = loss.detach(), torch.cat([slope.flatten().float() for slope in slopes])
    return found


def _for_training(batch: list[Instances]) -> list[Instances]:
    torch.manual_seed(0)  # both passes draw the same from here on
    return [_copied(rois) for rois in batch]


def _copied(instances: Instances) -> Instances:
    """A copy on which heads can set fields."""
    return Instances(instances.image_size, **instances.get_fields())


def _differ(found: Any, expected: Any) -> bool:
    try:
        torch.testing.assert_close(found, expected, rtol=2e-3, atol=1e-5, check_dtype=False)
    except AssertionError:
        return True
    return False
