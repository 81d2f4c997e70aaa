"""
The loss of each RoI, as the box predictor defines it, before the mean is taken.

Shape shorthand: R RoIs over all images, K foreground classes; class K is background.
"""

import functools
from typing import Any

import torch
from detectron2.layers import ciou_loss, diou_loss
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.structures import Instances
from fvcore.nn import giou_loss, smooth_l1_loss
from torch import Tensor, nn
from torch.nn import functional as F

NAMES = ("loss_cls", "loss_box_reg")
_IOU_LOSSES = {"giou": giou_loss, "diou": diou_loss, "ciou": ciou_loss}
# A subclass of a registered class that overrides one of these has another loss.
_LOSS_METHODS = ("losses", "box_reg_loss", "sigmoid_cross_entropy_loss")


class CannotMine(TypeError):
    """OHEM cannot rank RoIs with these heads or this predictor. The text says what to do."""


@functools.singledispatch
def per_roi_losses(
    predictor: nn.Module, predictions: Any, proposals: list[Instances]
) -> dict[str, Tensor]:
    """
    The losses of every RoI (paper Sec. 4.1), ``{"loss_cls": (R,), "loss_box_reg": (R,)}``. The mean
    of each over the R RoIs is the loss of that name that the predictor trains on, weights included.
    For predictors with losses of their own, register a function of the same arguments with
    ``@ohem_d2.per_roi_losses.register(TheirClass)``. Others raise CannotMine.

    Args:
        predictor: a ``FastRCNNOutputLayers`` or a registered class, also in a transparent wrapper.
        predictions: scores (R, K + 1) and deltas (R, 4K) or (R, 4), or what the registered
            class predicts; in float32 while RoIs are ranked.
        proposals: labelled, with ``proposal_boxes`` and ``gt_boxes`` in absolute XYXY pixels and
            ``gt_classes`` in [0, K], R in all. Without objects, ``gt_boxes`` may be missing.
    """
    check_predictor(predictor)
    return per_roi_losses(unwrapped(predictor), predictions, proposals)


_not_described = per_roi_losses.dispatch(object)


@per_roi_losses.register(FastRCNNOutputLayers)
def fast_rcnn_losses(
    predictor: FastRCNNOutputLayers, predictions: tuple, proposals: list[Instances]
) -> dict[str, Tensor]:
    """:func:`per_roi_losses` of Detectron2's own predictor."""
    check_predictor(predictor)
    scores, deltas = predictions
    gt_classes = torch.cat([p.gt_classes for p in proposals])
    if getattr(predictor, "use_sigmoid_ce", False):  # a sum over classes; background has only zeros
        target = F.one_hot(gt_classes, scores.shape[1])[:, :-1].to(scores.dtype)
        losses = F.binary_cross_entropy_with_logits(scores[:, :-1], target, reduction="none")
        return with_box_regression(predictor, losses.sum(dim=1), deltas, proposals)
    loss_cls = F.cross_entropy(scores, gt_classes, reduction="none")
    return with_box_regression(predictor, loss_cls, deltas, proposals)


def with_box_regression(
    predictor: FastRCNNOutputLayers, loss_cls: Tensor, deltas: Tensor, proposals: list[Instances]
) -> dict[str, Tensor]:
    """
    Both losses, weighted, for predictors that differ from ``FastRCNNOutputLayers`` only in their
    classification loss, ``loss_cls`` (R,). The localization loss is that of ``box_reg_loss``, and 0
    for background. ``deltas`` are (R, 4) or (R, 4K).
    """
    boxes = torch.cat([p.proposal_boxes.tensor for p in proposals])
    gt_boxes = [(p.gt_boxes if p.has("gt_boxes") else p.proposal_boxes).tensor for p in proposals]
    gt_classes, num_classes = torch.cat([p.gt_classes for p in proposals]), predictor.num_classes
    # Background gets harmless boxes, because indexing the foreground would make the host wait.
    foreground = ((gt_classes >= 0) & (gt_classes < num_classes))[:, None]
    size = boxes.shape[1]  # 5 for rotated boxes
    harmless = boxes.new_tensor([0.0, 0.0, 1.0, 1.0] if size == 4 else [1.0] * size)
    boxes = torch.where(foreground, boxes, harmless)
    gt_boxes = torch.where(foreground, torch.cat(gt_boxes), harmless)
    if deltas.shape[1] != size:
        index = torch.arange(len(deltas), device=deltas.device)
        classes = gt_classes.clamp(0, num_classes - 1)
        deltas = deltas.view(len(deltas), num_classes, size)[index, classes]
    deltas = torch.where(foreground, deltas, 0.0)

    kind, transform = predictor.box_reg_loss_type, predictor.box2box_transform
    if kind == "smooth_l1":
        target, beta = transform.get_deltas(boxes, gt_boxes), predictor.smooth_l1_beta
        loss = smooth_l1_loss(deltas, target, beta=beta, reduction="none").sum(dim=1)
    elif kind in _IOU_LOSSES:
        predicted = transform.apply_deltas(deltas, boxes)
        # These losses assert x0 <= x1, which fails for NaN. The NaN is put back afterwards.
        finite = torch.isfinite(predicted).all(dim=1)
        predicted = torch.where(finite[:, None], predicted, boxes)
        loss = _IOU_LOSSES[kind](predicted, gt_boxes, reduction="none")
        loss = torch.where(finite, loss, float("nan"))
    else:
        kinds = ", ".join(["smooth_l1", *_IOU_LOSSES])
        raise ValueError(f"MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE = {kind!r}; allowed: {kinds}")
    losses = {"loss_cls": loss_cls, "loss_box_reg": loss}
    return {name: loss * predictor.loss_weight.get(name, 1.0) for name, loss in losses.items()}


def check_predictor(predictor: nn.Module) -> None:
    """Raises CannotMine for losses that are not registered, or that draw random samples."""
    predictor = unwrapped(predictor)
    name, bases = type(predictor).__name__, type(predictor).__mro__
    described = next(base for base in bases if base in per_roi_losses.registry)
    below = bases[: bases.index(described)]
    own = [f"{b.__name__}.{m}()" for b in below for m in _LOSS_METHODS if m in vars(b)]
    if described is object or own:
        raise CannotMine(
            f"OHEM does not know the loss of a single RoI of {name}"
            f"{f', which has {own[0]} of its own' if own else ''}: describe it with a function "
            f"@ohem_d2.per_roi_losses.register({name}) of (predictor, predictions, proposals). A "
            "loss that draws at random cannot be ranked by"
        )
    if getattr(predictor, "use_fed_loss", False):
        raise CannotMine("MODEL.ROI_BOX_HEAD.USE_FED_LOSS = True draws at random; allowed: False")


def losses_to_rank_by(
    predictor: nn.Module, predictions: Any, proposals: list[Instances]
) -> dict[str, Tensor]:
    """Checked :func:`per_roi_losses`, in float32 even if predictions or autocast are not."""
    check_predictor(predictor)
    device = next((p.device.type for p in predictor.parameters()), "cpu")
    with torch.autocast(device, enabled=False):
        losses = per_roi_losses(unwrapped(predictor), _in_float32(predictions), proposals)
    shapes = {name: tuple(loss.shape) for name, loss in losses.items()}
    if shapes != (needed := dict.fromkeys(NAMES, (sum(map(len, proposals)),))):
        name = type(predictor).__name__
        raise CannotMine(f"per_roi_losses of {name} returned {shapes}; it has to return {needed}")
    return {name: loss.float() for name, loss in losses.items()}


def unwrapped(predictor: nn.Module) -> nn.Module:
    """The module without transparent wrappers (``torch.compile``, ``checkpoint_wrapper``)."""
    inner, known = predictor, per_roi_losses.dispatch
    while known(type(inner)) is _not_described and not hasattr(type(inner), "losses"):
        children = list(inner.children())
        if len(children) != 1:
            return predictor
        inner = children[0]
    return inner


def _in_float32(predictions: Any) -> Any:
    if isinstance(predictions, Tensor):
        return predictions.float() if predictions.is_floating_point() else predictions
    if type(predictions) in (tuple, list):
        return type(predictions)(map(_in_float32, predictions))
    return predictions
