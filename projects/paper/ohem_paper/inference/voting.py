"""
Iterative box regression and box voting, "+B" in the paper (after MR-CNN: Gidaris, Komodakis, ICCV
2015, Sec. 5), as functions on tensors.

The network scores and regresses the proposals; those boxes of a class that score high, R1, are
scored and regressed again for that class, which gives R2. NMS picks from their union, and each box
that it keeps moves to the mean of all boxes of its class that overlap it, weighted by their scores.

Shape shorthand: R boxes, K classes without background, B the number of boxes that are regressed for
a RoI: K, or 1 if the regression is class-agnostic; M candidates, D detections. Boxes are absolute
XYXY pixels; coordinates are continuous, as in Detectron2.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from detectron2.layers import batched_nms
from detectron2.structures import Boxes, pairwise_iou
from torch import Tensor

# Scores and regresses boxes: (R, 4) -> scores (R, K) and boxes (R, B, 4).
Predict = Callable[[Tensor], tuple[Tensor, Tensor]]


class Candidates(NamedTuple):
    """Boxes (M, 4), each with its score (M,) and its class (M,), int64 in [0, K)."""

    boxes: Tensor
    scores: Tensor
    classes: Tensor


def union(parts: Sequence[Candidates]) -> Candidates:
    """All candidates of all parts, in this order; at least one part."""
    return Candidates(*(torch.cat(columns) for columns in zip(*parts)))


def above_threshold(scores: Tensor, boxes: Tensor, score_thresh: float) -> Candidates:
    """
    Each of the boxes (R, B, 4) once for each class whose score, of (R, K), is above the threshold,
    which a NaN never is.
    """
    return _of_class(scores, boxes, *torch.nonzero(scores > score_thresh, as_tuple=True))


def iterate(
    first: Candidates, predict: Predict, iterations: int, score_thresh: float
) -> Candidates:
    """
    The union of R1, which is ``first``, R2, ...: boxes are scored and regressed so many times in
    all, with that of the proposals; twice in the paper. Each candidate is so for its own class
    only, and those whose new score is above the threshold stay. ``predict`` sees equal boxes once:
    with class-agnostic regression a box is a candidate of several classes.
    """
    parts = [first]
    for _ in range(iterations - 1):
        if len(parts[-1].scores) == 0:
            break
        boxes, index = torch.unique(parts[-1].boxes, dim=0, return_inverse=True)
        again = _of_class(*predict(boxes), index, parts[-1].classes)
        kept = again.scores > score_thresh
        parts.append(Candidates(*(column[kept] for column in again)))
    return union(parts)


def nms(candidates: Candidates, nms_thresh: float, topk: int = -1) -> Tensor:
    """
    int64 of shape (D,): the candidates that no higher scoring one of their class overlaps by more
    than the threshold, by falling score; the first ``topk`` of them unless that is < 0.
    """
    kept = batched_nms(candidates.boxes, candidates.scores, candidates.classes, nms_thresh)
    return kept[:topk] if topk >= 0 else kept


def vote(candidates: Candidates, kept: Tensor, vote_thresh: float) -> Tensor:
    """
    (D, 4): for each box kept, see :func:`nms`, the mean of all candidates of its class that overlap
    it by an IoU of at least ``vote_thresh``, itself among them, weighted by their scores, all >= 0.
    """
    voted = candidates.boxes[kept].clone()
    for c in torch.unique(candidates.classes[kept]).tolist():
        voters = torch.nonzero(candidates.classes == c).squeeze(1)
        places = torch.nonzero(candidates.classes[kept] == c).squeeze(1)
        boxes, centers = candidates.boxes[voters], voted[places]
        may_vote = pairwise_iou(Boxes(centers), Boxes(boxes)) >= vote_thresh
        may_vote |= kept[places][:, None] == voters  # a box without area overlaps not even itself
        # In float64, so that a box with no voter but itself stays as it is, and under autocast.
        weights = may_vote * candidates.scores[voters].double()
        total = weights.sum(dim=1, keepdim=True)
        means = (weights @ boxes.double() / total).to(voted.dtype)
        voted[places] = torch.where(total > 0, means, centers)
    return voted


def _of_class(scores: Tensor, boxes: Tensor, index: Tensor, classes: Tensor) -> Candidates:
    """The scores and boxes of M pairs of a RoI and a class; (R, K), (R, B, 4), (M,), (M,)."""
    column = classes if boxes.shape[1] > 1 else torch.zeros_like(classes)
    return Candidates(boxes[index, column], scores[index, classes], classes)
