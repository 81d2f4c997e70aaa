"""
The algorithm, as functions on tensors, for the R proposals of one image. Their ``labels``, of shape
(R,), say whether each is FOREGROUND, BACKGROUND or IGNORED; ``scores``, of shape (R,), are the
highest of an object class; a working set is the indices of proposals, int64, ascending.
"""

import torch
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, Instances, pairwise_iou

from ohem_d2.mining.candidates import inside_ignore_region

IGNORED, BACKGROUND, FOREGROUND = -1, 0, 1


def label_proposals(
    boxes: Boxes, target: Instances, matcher: Matcher, ioa_thresh: float
) -> torch.Tensor:
    """
    int8 of shape (R,): what the heads' matcher makes of the IoUs of R boxes, in absolute XYXY
    pixels, with the ``gt_boxes`` of the target. Background that lies in a crowd region, if there
    are ``ignore_regions``, by this share of its area is ignored.
    """
    labels = matcher(pairwise_iou(target.gt_boxes, boxes))[1]
    crowd = inside_ignore_region(boxes, target, ioa_thresh)
    return torch.where((labels == BACKGROUND) & crowd, IGNORED, labels).to(torch.int8)


def initial_set(
    labels: torch.Tensor, num_background: int, generator: torch.Generator
) -> torch.Tensor:
    """All foreground and ``num_background`` random background proposals, all if there are fewer."""
    background = torch.nonzero(labels == BACKGROUND).squeeze(1)
    order = torch.randperm(len(background), generator=generator)
    foreground = torch.nonzero(labels == FOREGROUND).squeeze(1)
    return torch.cat([foreground, background[order[:num_background]]]).sort().values


def find_false_positives(
    scores: torch.Tensor, labels: torch.Tensor, score_thresh: float
) -> torch.Tensor:
    """int64: background that scores above ``score_thresh``, highest scores first."""
    found = torch.nonzero((labels == BACKGROUND) & (scores > score_thresh)).squeeze(1)
    return found[torch.sort(scores[found], descending=True, stable=True).indices]


def shrink(
    indices: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor, keep_thresh: float
) -> torch.Tensor:
    """The working set without background that scores below ``keep_thresh``."""
    easy = (labels[indices] == BACKGROUND) & (scores[indices] < keep_thresh)
    return indices[~easy]


def merge(indices: torch.Tensor, found: torch.Tensor, max_added: int) -> torch.Tensor:
    """
    The working set with what was found, most important first, and is not in it yet: at most
    ``max_added`` of these, 0: all.
    """
    new = found[~torch.isin(found, indices)]
    return torch.cat([indices, new[: max_added or None]]).sort().values


def round_of(iteration: int, max_iter: int, rounds: int) -> int:
    """The round, from 0, that an iteration belongs to; lengths of rounds differ by at most 1."""
    return iteration * rounds // max_iter
