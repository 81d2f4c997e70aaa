"""The algorithm, as functions on tensors, for the R proposals of one image."""

import torch
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, Instances, pairwise_iou

from ohem_d2.mining.labelling import inside_ignore_region

# Labels of proposals
IGNORED, BACKGROUND, FOREGROUND = -1, 0, 1


def label_proposals(
    boxes: Boxes, target: Instances, matcher: Matcher, ioa_thresh: float
) -> torch.Tensor:
    """
    Args:
        boxes: R proposals, absolute XYXY pixels.
        target: the ground truth, with ``gt_boxes`` and perhaps ``ignore_regions``.
        matcher: the heads', which turns IoUs into labels.
        ioa_thresh: background inside a crowd region by this share of its area is ignored.

    Returns:
        int8 of shape (R,): FOREGROUND, BACKGROUND or IGNORED.
    """
    labels = matcher(pairwise_iou(target.gt_boxes, boxes))[1]
    crowd = inside_ignore_region(boxes, target, ioa_thresh)
    return torch.where((labels == BACKGROUND) & crowd, IGNORED, labels).to(torch.int8)


def initial_set(
    labels: torch.Tensor, num_background: int, generator: torch.Generator
) -> torch.Tensor:
    """
    Args:
        labels: of shape (R,).

    Returns:
        int64, ascending: indices of all foreground and of ``num_background`` random background
        proposals, or of all if there are fewer.
    """
    background = torch.nonzero(labels == BACKGROUND).squeeze(1)
    order = torch.randperm(len(background), generator=generator)
    foreground = torch.nonzero(labels == FOREGROUND).squeeze(1)
    return torch.cat([foreground, background[order[:num_background]]]).sort().values


def find_false_positives(
    scores: torch.Tensor, labels: torch.Tensor, score_thresh: float
) -> torch.Tensor:
    """
    Args:
        scores: of shape (R,), the highest of an object class.
        labels: of shape (R,).

    Returns:
        int64: indices of background that scores above ``score_thresh``, highest scores first.
    """
    found = torch.nonzero((labels == BACKGROUND) & (scores > score_thresh)).squeeze(1)
    return found[torch.sort(scores[found], descending=True, stable=True).indices]


def shrink(
    indices: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor, keep_thresh: float
) -> torch.Tensor:
    """
    Args:
        indices: int64, the working set.
        scores, labels: of all proposals, each of shape (R,).

    Returns:
        ``indices`` without background that scores below ``keep_thresh``.
    """
    easy = (labels[indices] == BACKGROUND) & (scores[indices] < keep_thresh)
    return indices[~easy]


def merge(indices: torch.Tensor, found: torch.Tensor, max_added: int) -> torch.Tensor:
    """
    Args:
        indices: int64, the working set.
        found: int64, what is to be added, most important first.
        max_added: of those that are not in the set yet, at most so many; 0: all.

    Returns:
        int64, ascending: the grown set.
    """
    new = found[~torch.isin(found, indices)]
    return torch.cat([indices, new[: max_added or None]]).sort().values
