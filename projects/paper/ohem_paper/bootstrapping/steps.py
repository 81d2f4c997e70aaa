"""
The algorithm, as functions on tensors, for the R proposals of one image. Their ``labels``, of shape
(R,), say whether each is FOREGROUND, BACKGROUND or IGNORED; ``scores``, of shape (R,), are the
highest of an object class; a working set is the indices of proposals, int64, ascending.
"""

import torch
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, Instances, pairwise_ioa, pairwise_iou
from torch import Tensor

IGNORED, BACKGROUND, FOREGROUND = -1, 0, 1


def label_proposals(boxes: Boxes, target: Instances, matcher: Matcher, ioa_thresh: float) -> Tensor:
    """
    int8 of shape (R,): what the heads' matcher makes of the IoUs of R boxes, in absolute XYXY
    pixels, with the ``gt_boxes`` of the target. Background that lies in one of its
    ``ignore_regions``, crowds, by this share of its area is ignored.
    """
    labels = matcher(pairwise_iou(target.gt_boxes, boxes))[1]
    if target.has("ignore_regions") and len(target.ignore_regions.boxes) > 0:
        in_crowd = pairwise_ioa(target.ignore_regions.boxes, boxes).amax(dim=0) >= ioa_thresh
        labels = torch.where((labels == BACKGROUND) & in_crowd, IGNORED, labels)
    return labels.to(torch.int8)


def initial_set(labels: Tensor, num_background: int, generator: torch.Generator) -> Tensor:
    """All foreground and ``num_background`` random background proposals, all if there are fewer."""
    background = torch.nonzero(labels == BACKGROUND).squeeze(1)
    order = torch.randperm(len(background), generator=generator)
    foreground = torch.nonzero(labels == FOREGROUND).squeeze(1)
    return torch.cat([foreground, background[order[:num_background]]]).sort().values


def find_false_positives(scores: Tensor, labels: Tensor, score_thresh: float) -> Tensor:
    """int64: background that scores above ``score_thresh``, highest scores first."""
    found = torch.nonzero((labels == BACKGROUND) & (scores > score_thresh)).squeeze(1)
    return found[torch.sort(scores[found], descending=True, stable=True).indices]


def merge(indices: Tensor, found: Tensor, max_added: int) -> Tensor:
    """
    The working set with what was found, most important first, and is not in it yet: at most
    ``max_added`` of these, 0: all.
    """
    new = found[~torch.isin(found, indices)]
    return torch.cat([indices, new[: max_added or None]]).sort().values


def round_of(iteration: int, max_iter: int, rounds: int) -> int:
    """The round, from 0, that an iteration belongs to; lengths of rounds differ by at most 1."""
    return iteration * rounds // max_iter
