"""
The loss of each RoI, as the box predictor defines it, before it takes the mean.

Shape shorthand: R RoIs over all images, K foreground classes; class K is background.
"""

import functools
from typing import Any

import torch
from detectron2.layers import cat, ciou_loss, diou_loss
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.structures import Instances
from fvcore.nn import giou_loss, smooth_l1_loss
from torch import nn
from torch.nn import functional as F

from ..compat import uses_fed_loss, uses_sigmoid_ce
from .wrappers import unwrapped

_IOU_LOSSES = {"giou": giou_loss, "diou": diou_loss, "ciou": ciou_loss}

# What FastRCNNOutputLayers computes its losses with. A subclass that replaces one of these trains
# on a loss that is not FastRCNNOutputLayers' any more.
_KNOWN_METHODS = ("losses", "box_reg_loss", "sigmoid_cross_entropy_loss")

_HOW_TO_DESCRIBE = (
    "describe it with a function @ohem_d2.per_roi_losses.register({0}) of (predictor, predictions, "
    "proposals), or a method per_roi_losses(self, predictions, proposals) of {0}, that returns "
    "{{'loss_cls': (R,), 'loss_box_reg': (R,)}}, where the mean of each over the R RoIs is what is "
    "trained on. A loss that draws at random cannot be ranked by"
)


class CannotMine(TypeError):
    """Heads or a predictor that OHEM cannot rank by as they are; the text says what to do."""


@functools.singledispatch
def _describe(box_predictor: nn.Module, predictions: Any, proposals: list[Instances]) -> dict:
    """By the class of the predictor: what :func:`per_roi_losses` returns."""
    raise NotImplementedError


def per_roi_losses(
    box_predictor: nn.Module, predictions: Any, proposals: list[Instances]
) -> dict[str, torch.Tensor]:
    """
    The classification and the localization loss of every RoI (paper Sec. 4.1), weighted with the
    predictor's loss weights.

    The scale is that of ``box_predictor.losses(predictions, proposals)``: the mean over the R RoIs
    of each result is the loss of that name there. Nothing is logged, and the computation is in
    float32 whatever the predictions' type and autocast say, so that a ranking does not depend on
    rounding.

    It is a generic function, as of ``functools.singledispatch``: docs/other-heads.md describes a
    predictor with losses of its own from outside.

    Args:
        box_predictor: a ``FastRCNNOutputLayers``, a predictor of a registered class, one with a
            method ``per_roi_losses(predictions, proposals)``, or a wrapper of such.
        predictions: what it predicts; of ``FastRCNNOutputLayers`` scores of shape (R, K + 1) and
            deltas of shape (R, 4K) or (R, 4). A description is given them in float32.
        proposals: labelled, with ``proposal_boxes`` and ``gt_boxes`` in absolute XYXY pixels and
            ``gt_classes`` in [0, K], R in all. Where an image has no object, ``gt_*`` fields may be
            missing.

    Returns:
        ``{"loss_cls": (R,), "loss_box_reg": (R,)}``, float32, differentiable. A RoI with
        predictions that are not finite has a loss that is not finite.

    Raises:
        TypeError, NotImplementedError: see :func:`check_predictor`; or for losses of other shapes.
    """
    check_predictor(box_predictor)
    return losses_to_rank_by(box_predictor, predictions, proposals)


per_roi_losses.register = _describe.register
per_roi_losses.dispatch = _describe.dispatch
per_roi_losses.registry = _describe.registry


def losses_to_rank_by(
    box_predictor: nn.Module, predictions: Any, proposals: list[Instances]
) -> dict[str, torch.Tensor]:
    """:func:`per_roi_losses` of a predictor that has passed :func:`check_predictor`."""
    inner = described(box_predictor)
    describer = _describer(type(inner))
    if describer is None:
        check_predictor(inner)
    own = vars(describer).get("per_roi_losses")
    describe = functools.partial(own or _describe.registry[describer], inner)
    describe = vars(inner).get("per_roi_losses", describe)
    device = next((p.device.type for p in inner.parameters()), "cpu")
    with torch.autocast(device, enabled=False):
        losses = describe(_float32(predictions), proposals)
    num_rois = sum(len(p) for p in proposals)
    shapes = {name: tuple(loss.shape) for name, loss in losses.items()}
    if shapes != dict.fromkeys(("loss_cls", "loss_box_reg"), (num_rois,)):
        raise TypeError(
            f"per_roi_losses of {type(inner).__name__} returned {shapes}; it has to return "
            f"loss_cls and loss_box_reg, each of shape ({num_rois},)"
        )
    return {name: loss.float() for name, loss in losses.items()}


@per_roi_losses.register(FastRCNNOutputLayers)
def _of_fast_rcnn(box_predictor, predictions, proposals):
    scores, deltas = predictions
    gt_classes = cat([p.gt_classes for p in proposals])
    if uses_sigmoid_ce(box_predictor):
        loss_cls = sigmoid_cross_entropy(scores, gt_classes)
    else:
        loss_cls = F.cross_entropy(scores, gt_classes, reduction="none")
    return weighted(box_predictor, loss_cls, deltas, proposals)


def weighted(
    box_predictor: FastRCNNOutputLayers,
    loss_cls: torch.Tensor,
    deltas: torch.Tensor,
    proposals: list[Instances],
) -> dict[str, torch.Tensor]:
    """
    What :func:`per_roi_losses` returns, for predictors that differ from ``FastRCNNOutputLayers`` in
    the classification loss alone, which is of shape (R,) and not weighted yet.
    """
    loss_box_reg = box_regression(
        deltas,
        cat([p.proposal_boxes.tensor for p in proposals]),
        cat([(p.gt_boxes if p.has("gt_boxes") else p.proposal_boxes).tensor for p in proposals]),
        cat([p.gt_classes for p in proposals]),
        box2box_transform=box_predictor.box2box_transform,
        num_classes=box_predictor.num_classes,
        loss_type=box_predictor.box_reg_loss_type,
        smooth_l1_beta=box_predictor.smooth_l1_beta,
    )
    losses = {"loss_cls": loss_cls, "loss_box_reg": loss_box_reg}
    return {name: loss * box_predictor.loss_weight.get(name, 1.0) for name, loss in losses.items()}


def described(box_predictor: nn.Module) -> nn.Module:
    """The predictor in its wrappers, if any: what has losses or a description of them."""
    return unwrapped(box_predictor, lambda m: _describer(type(m)) or hasattr(type(m), "losses"))


def check_predictor(box_predictor: nn.Module) -> None:
    """
    Make sure that :func:`per_roi_losses` ranks by the loss that ``box_predictor`` trains on. Raises
    CannotMine if it has losses of its own and does not say what each RoI's is, and
    NotImplementedError for the federated loss.
    """
    box_predictor = described(box_predictor)
    cls = type(box_predictor)
    describer = _describer(cls)
    if describer is None:
        raise CannotMine(
            f"{cls.__module__}.{cls.__name__} is no FastRCNNOutputLayers of Detectron2, so OHEM "
            f"does not know the loss of a single RoI: {_HOW_TO_DESCRIBE.format(cls.__name__)}"
        )
    for method in _KNOWN_METHODS:
        definer = next((base for base in cls.__mro__ if method in vars(base)), None)
        # A class that replaces the losses again, below the one that describes them, voids the
        # description.
        if definer is not None and not issubclass(describer, definer):
            raise CannotMine(
                f"{cls.__name__} has a {method}() of its own, so OHEM does not know the loss of a "
                f"single RoI: {_HOW_TO_DESCRIBE.format(definer.__name__)}"
            )
    if describer is FastRCNNOutputLayers and uses_fed_loss(box_predictor):
        # It draws classes at random in every call, from the labels of the RoIs it is given: the
        # losses that rank all RoIs and those that train the hard ones would differ.
        raise NotImplementedError(
            "MODEL.ROI_BOX_HEAD.USE_FED_LOSS = True draws other classes for training than for "
            "ranking, so OHEM cannot rank by it; allowed: False"
        )


def _describer(cls: type) -> type | None:
    """The class among ``cls`` and its bases that says what the loss of a RoI is."""
    known = _describe.registry.keys() - {object}
    return next((c for c in cls.__mro__ if c in known or "per_roi_losses" in vars(c)), None)


def _float32(predictions: Any) -> Any:
    if isinstance(predictions, torch.Tensor):
        return predictions.float() if predictions.is_floating_point() else predictions
    if type(predictions) in (tuple, list):
        return type(predictions)(_float32(part) for part in predictions)
    return predictions


def sigmoid_cross_entropy(scores: torch.Tensor, gt_classes: torch.Tensor) -> torch.Tensor:
    """
    Of logits (R, K + 1), the last column of which is not used, and classes (R,) in [0, K]: one
    binary cross entropy for each of the K classes, summed, (R,); background is all zeros.
    """
    target = F.one_hot(gt_classes, scores.shape[1])[:, :-1].to(scores.dtype)
    return F.binary_cross_entropy_with_logits(scores[:, :-1], target, reduction="none").sum(dim=1)


def box_regression(
    deltas: torch.Tensor,
    proposal_boxes: torch.Tensor,
    gt_boxes: torch.Tensor,
    gt_classes: torch.Tensor,
    *,
    box2box_transform: Box2BoxTransform,
    num_classes: int,
    loss_type: str,
    smooth_l1_beta: float,
) -> torch.Tensor:
    """
    Localization loss of each RoI: smooth L1 summed over the four deltas, or an IoU loss of the
    decoded box; 0 for background.

    Args:
        deltas: of shape (R, 4) if class-agnostic, else (R, 4 * num_classes).
        proposal_boxes, gt_boxes: of shape (R, 4), absolute XYXY pixels.
        gt_classes: int64 of shape (R,), in [0, num_classes].
        loss_type: "smooth_l1", "giou", "diou" or "ciou".
        smooth_l1_beta: where L1 turns into L2; 0 for L1.

    Returns:
        Tensor of shape (R,).
    """
    # All RoIs go through, background with a box and deltas that do no harm: to pick the foreground
    # would make the host wait for the device.
    foreground = ((gt_classes >= 0) & (gt_classes < num_classes))[:, None]
    size = proposal_boxes.shape[1]
    harmless = proposal_boxes.new_tensor([0.0, 0.0, 1.0, 1.0] if size == 4 else [1.0] * size)
    proposal_boxes = torch.where(foreground, proposal_boxes, harmless)
    gt_boxes = torch.where(foreground, gt_boxes, harmless)
    if deltas.shape[1] != size:
        every = torch.arange(len(deltas), device=deltas.device)
        classes = gt_classes.clamp(0, num_classes - 1)
        deltas = deltas.view(len(deltas), num_classes, size)[every, classes]
    deltas = torch.where(foreground, deltas, 0.0)

    if loss_type == "smooth_l1":
        target = box2box_transform.get_deltas(proposal_boxes, gt_boxes)
        return smooth_l1_loss(deltas, target, beta=smooth_l1_beta, reduction="none").sum(dim=1)
    if loss_type not in _IOU_LOSSES:
        allowed = ", ".join(["smooth_l1", *_IOU_LOSSES])
        name = "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE"
        raise ValueError(f"{name} = {loss_type!r}; allowed: {allowed}")
    boxes = box2box_transform.apply_deltas(deltas, proposal_boxes)
    # The IoU losses assert that boxes are in order, which a NaN is not. Such a RoI gets its NaN
    # back afterwards.
    finite = torch.isfinite(boxes).all(dim=1)
    boxes = torch.where(finite[:, None], boxes, proposal_boxes)
    loss = _IOU_LOSSES[loss_type](boxes, gt_boxes, reduction="none")
    return torch.where(finite, loss, float("nan"))
