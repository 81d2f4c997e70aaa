"""
The loss of each RoI, as FastRCNNOutputLayers defines it, before it takes the mean.

Shape shorthand in this module:

    R: number of RoIs, over all images
    K: number of foreground classes; class K is background
"""

import torch
from detectron2.layers import cat, ciou_loss, diou_loss
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.structures import Instances
from fvcore.nn import giou_loss, smooth_l1_loss
from torch import nn
from torch.nn import functional as F

from ..compat import uses_fed_loss, uses_sigmoid_ce

_IOU_LOSSES = {"giou": giou_loss, "diou": diou_loss, "ciou": ciou_loss}

# What FastRCNNOutputLayers computes its losses with. A subclass that replaces one of these trains
# on a loss that this module does not know.
_KNOWN_METHODS = ("losses", "box_reg_loss", "sigmoid_cross_entropy_loss")


def check_predictor(box_predictor: nn.Module) -> None:
    """
    Make sure that :func:`per_roi_losses` ranks by the loss that ``box_predictor`` trains on.

    Raises:
        TypeError: if the predictor has losses of its own and does not say what each RoI's is.
        NotImplementedError: for the federated loss.
    """
    cls = type(box_predictor)
    scorer = _definer(cls, "per_roi_losses")
    for method in _KNOWN_METHODS:
        definer = _definer(cls, method)
        if definer is _definer(FastRCNNOutputLayers, method):
            continue
        # A class that replaces the losses again, below the one that describes them, voids the
        # description.
        if scorer is None or (definer is not None and not issubclass(scorer, definer)):
            raise TypeError(
                f"{cls.__name__} has a {method}() of its own, so OHEM does not know the loss of a "
                f"single RoI. Give {(definer or cls).__name__} a method "
                "per_roi_losses(self, predictions, proposals) that returns {'loss_cls': (R,), "
                "'loss_box_reg': (R,)}, where the mean of each over the R RoIs is what losses() "
                "returns under that name"
            )
    if scorer is None and uses_fed_loss(box_predictor):
        # It draws classes at random in every call, from the labels of the RoIs it is given: the
        # losses that rank all RoIs and those that train the hard ones would differ.
        raise NotImplementedError(
            "MODEL.ROI_BOX_HEAD.USE_FED_LOSS = True draws other classes for training than for "
            "ranking, so OHEM cannot rank by it; allowed: False"
        )


def per_roi_losses(
    box_predictor: nn.Module,
    predictions: tuple[torch.Tensor, torch.Tensor],
    proposals: list[Instances],
) -> dict[str, torch.Tensor]:
    """
    The classification and the localization loss of every RoI (paper Sec. 4.1), weighted with the
    predictor's loss weights.

    The scale is that of ``box_predictor.losses(predictions, proposals)``: the mean over the R RoIs
    of each result is the loss of that name there. Nothing is logged, and the computation is in
    float32 whatever the predictions' type and autocast say, so that a ranking does not depend on
    rounding.

    Args:
        box_predictor: a ``FastRCNNOutputLayers``; or a module with losses of its own and a method
            ``per_roi_losses(predictions, proposals)``, which is then called.
        predictions: scores of shape (R, K + 1), deltas of shape (R, 4K) or (R, 4).
        proposals: labelled, with ``proposal_boxes`` and ``gt_boxes`` in absolute XYXY pixels and
            ``gt_classes`` in [0, K], R in all. Where an image has no object, ``gt_boxes`` may be
            missing.

    Returns:
        ``{"loss_cls": (R,), "loss_box_reg": (R,)}``, float32, differentiable. A RoI with
        predictions that are not finite has a loss that is not finite.

    Raises:
        TypeError, NotImplementedError: see :func:`check_predictor`.
    """
    check_predictor(box_predictor)
    scores, deltas = predictions = tuple(prediction.float() for prediction in predictions)
    if hasattr(box_predictor, "per_roi_losses"):
        with torch.autocast(scores.device.type, enabled=False):
            losses = box_predictor.per_roi_losses(predictions, proposals)
        shapes = {name: tuple(loss.shape) for name, loss in losses.items()}
        if shapes != dict.fromkeys(("loss_cls", "loss_box_reg"), (len(scores),)):
            raise TypeError(
                f"{type(box_predictor).__name__}.per_roi_losses() returned {shapes}; it has to "
                f"return loss_cls and loss_box_reg, each of shape ({len(scores)},)"
            )
        return {name: loss.float() for name, loss in losses.items()}

    gt_classes = cat([p.gt_classes for p in proposals])
    proposal_boxes = cat([p.proposal_boxes.tensor for p in proposals])
    gt_boxes = cat(
        [(p.gt_boxes if p.has("gt_boxes") else p.proposal_boxes).tensor for p in proposals]
    )
    with torch.autocast(scores.device.type, enabled=False):
        if uses_sigmoid_ce(box_predictor):
            loss_cls = sigmoid_cross_entropy(scores, gt_classes)
        else:
            loss_cls = F.cross_entropy(scores, gt_classes, reduction="none")
        loss_box_reg = box_regression(
            deltas,
            proposal_boxes,
            gt_boxes,
            gt_classes,
            box2box_transform=box_predictor.box2box_transform,
            num_classes=box_predictor.num_classes,
            loss_type=box_predictor.box_reg_loss_type,
            smooth_l1_beta=box_predictor.smooth_l1_beta,
        )
    losses = {"loss_cls": loss_cls, "loss_box_reg": loss_box_reg}
    return {name: loss * box_predictor.loss_weight.get(name, 1.0) for name, loss in losses.items()}


def sigmoid_cross_entropy(scores: torch.Tensor, gt_classes: torch.Tensor) -> torch.Tensor:
    """
    One binary cross entropy for each of the K classes, summed; background is all zeros.

    Args:
        scores: logits of shape (R, K + 1); the last column is not used.
        gt_classes: int64 of shape (R,), in [0, K].

    Returns:
        Tensor of shape (R,).
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
    foreground = torch.nonzero((gt_classes >= 0) & (gt_classes < num_classes)).squeeze(1)
    proposal_boxes, gt_boxes = proposal_boxes[foreground], gt_boxes[foreground]
    if deltas.shape[1] == proposal_boxes.shape[1]:
        fg_deltas = deltas[foreground]
    else:
        per_class = deltas.view(len(deltas), num_classes, proposal_boxes.shape[1])
        fg_deltas = per_class[foreground, gt_classes[foreground]]

    if loss_type == "smooth_l1":
        target = box2box_transform.get_deltas(proposal_boxes, gt_boxes)
        loss = smooth_l1_loss(fg_deltas, target, beta=smooth_l1_beta, reduction="none").sum(dim=1)
    elif loss_type in _IOU_LOSSES:
        boxes = box2box_transform.apply_deltas(fg_deltas, proposal_boxes)
        # The IoU losses assert that boxes are in order, which a NaN is not. Such a RoI gets its
        # NaN back afterwards.
        finite = torch.isfinite(boxes).all(dim=1)
        boxes = torch.where(finite[:, None], boxes, proposal_boxes)
        loss = _IOU_LOSSES[loss_type](boxes, gt_boxes, reduction="none")
        loss = torch.where(finite, loss, loss.new_full((), float("nan")))
    else:
        raise ValueError(
            f"MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE = {loss_type!r}; allowed: smooth_l1, "
            + ", ".join(_IOU_LOSSES)
        )
    return deltas.new_zeros(len(deltas)).index_put((foreground,), loss)


def _definer(cls: type, method: str):
    """The class among ``cls`` and its bases that a method comes from; None if it has none."""
    return next((base for base in cls.__mro__ if method in vars(base)), None)
