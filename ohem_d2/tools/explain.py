"""Mine on an image, and say of each candidate why it was mined or not."""

from collections.abc import Sequence
from types import SimpleNamespace

import torch
from detectron2.structures import pairwise_iou
from detectron2.utils.events import EventStorage
from torch import Tensor, nn
from torchvision.ops import box_iou

from ..mining.record import Mining
from ..mining.selection import nms_groups, order_by_loss, separated
from .errors import InputError, in_words

# The keys of a row that explain() returns
COLUMNS = (
    *("rank", "loss", "loss_cls", "loss_loc", "label", "foreground", "iou"),
    *("status", "suppressed_by", "x0", "y0", "x1", "y1"),
)


def mine(model: nn.Module, inputs: dict) -> list[Mining]:
    """
    Mine on an image, as after the warm-up. Returns one Mining, or one for each stage of a cascade
    with CASCADE_STAGES "all". ``model`` is from ``load_model``, and is not trained. ``inputs`` are
    from ``load_data.image_mapper``. Raises InputError if the weights have diverged.
    """
    heads, minings = model.roi_heads, []
    before, heads.watcher = heads.watcher, SimpleNamespace(due=lambda: True, show=minings.append)
    try:
        with torch.no_grad(), EventStorage(heads.ohem.warmup_iters):
            model([inputs])
    except FloatingPointError as e:  # from Detectron2's RPN
        raise InputError(f"{inputs['file_name']}: {in_words(e)}") from e
    finally:
        heads.watcher = before
    return minings


def explain(
    mining: Mining,
    *,
    nms_thresh: float,
    nms_scope: str,
    classes: Sequence[str] | None = None,
    size: tuple[int, int] | None = None,
) -> list[dict]:
    """
    Make a row for each candidate, hardest first: ``rank``, from 1; ``loss``, the ranking loss;
    ``loss_cls`` and ``loss_loc``; ``label``; ``foreground``, as a class may be called "background";
    ``iou``, the highest with an object; ``status``, "mined", "suppressed" or "below the cut";
    ``suppressed_by``, the rank of the harder RoI, or ""; ``x0`` to ``y1``, in absolute pixels of an
    image of ``size`` (H, W), by default of the network's input. ``nms_thresh`` and ``nms_scope``
    are those of the mining. Without ``classes``, a label is the number of the class.
    """
    boxes, gt_classes = mining.rois[0].proposal_boxes, mining.rois[0].gt_classes
    culprits = suppressors(mining.survivors, boxes.tensor, gt_classes, nms_thresh, nms_scope)
    order = order_by_loss(mining.ranking)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(1, len(order) + 1, device=order.device)
    iou = pairwise_iou(boxes, mining.targets[0].gt_boxes)
    iou = iou.amax(dim=1) if iou.shape[1] else iou.new_zeros(len(iou))
    mined = set(mining.hard.tolist())

    corners, (height, width) = boxes.clone(), mining.images[0].shape[-2:]
    if size:
        corners.scale(size[1] / width, size[0] / height)
    columns = (
        *(rank, mining.ranking, mining.losses["loss_cls"], mining.losses["loss_box_reg"]),
        *(gt_classes, mining.is_foreground, iou),
        *(culprits, torch.where(culprits >= 0, rank[culprits], 0)),
        *corners.tensor.unbind(dim=1),
    )
    values = zip(*(column[order].tolist() for column in columns))
    rows = [dict(zip(COLUMNS, row)) for row in values]
    for index, row in zip(order.tolist(), rows):
        name = classes[row["label"]] if classes and row["foreground"] else str(row["label"])
        row["label"] = name if row["foreground"] else "background"
        row["status"] = "mined" if index in mined else "below the cut"
        if row["suppressed_by"]:
            row["status"] = "suppressed"
        row["suppressed_by"] = row["suppressed_by"] or ""
    return rows


def suppressors(
    survivors: Tensor, boxes: Tensor, gt_classes: Tensor, nms_thresh: float, nms_scope: str
) -> Tensor:
    """
    Find which RoI suppresses each of R RoIs of an image in NMS by loss. Returns int64 (R,): the
    hardest survivor with an IoU above the threshold, or -1 for a survivor. ``survivors`` are (S,)
    indices, hardest first; ``boxes`` are (R, 4), absolute XYXY pixels.
    """
    if len(survivors) == len(boxes):
        return torch.full_like(gt_classes, -1)
    groups = nms_groups(gt_classes, torch.zeros_like(gt_classes), nms_scope)
    boxes = torch.nan_to_num(boxes.double(), nan=0.0, posinf=0.0, neginf=0.0)  # as NMS does
    boxes = separated(boxes, groups)
    # argmax finds the first survivor, which is the hardest.
    overlaps = box_iou(boxes[survivors], boxes) > nms_thresh
    culprits = survivors[overlaps.int().argmax(dim=0)]
    culprits[survivors] = -1
    return culprits
