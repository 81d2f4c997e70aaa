"""Plain-loop versions in NumPy of what the package computes, written from the paper's text."""

import math
from collections.abc import Sequence

import numpy as np


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    overlap = width * height
    area_a = (a[2] - a[0]) * (a[3] - a[1])
    area_b = (b[2] - b[0]) * (b[3] - b[1])
    return overlap / (area_a + area_b - overlap)


def order(losses: Sequence[float]) -> list[int]:
    """From the hardest down; NaN and infinity are the hardest, ties keep their order."""
    hardness = [x if math.isfinite(x) else math.inf for x in losses]
    return sorted(range(len(hardness)), key=lambda i: (-hardness[i], i))


def nms(losses, boxes, groups, thresh: float) -> list[int]:
    """``groups``: RoIs suppress each other only in the same group; None for no NMS."""
    kept: list[int] = []
    for i in order(losses):
        if groups is None or all(
            groups[i] != groups[j] or not iou(boxes[i], boxes[j]) > thresh for j in kept
        ):
            kept.append(i)
    return kept


def suppressors(losses, boxes, groups, thresh: float) -> list[int]:
    """For each RoI the one that suppresses it in :func:`nms`, -1 if it is kept."""
    kept = nms(losses, boxes, groups, thresh)
    result = []
    for i in range(len(losses)):
        harder = [j for j in kept if groups is None or groups[i] == groups[j]]
        hits = [j for j in harder if iou(boxes[i], boxes[j]) > thresh]
        result.append(-1 if i in kept else hits[0])
    return result


def select(losses, boxes, gt_classes, num_samples, nms_thresh=0.7, nms_scope="class") -> list[int]:
    candidates = [i for i, c in enumerate(gt_classes) if c >= 0]
    groups = {"class": list(gt_classes), "agnostic": [0] * len(losses), "none": None}[nms_scope]
    kept = nms(
        [losses[i] for i in candidates],
        [boxes[i] for i in candidates],
        None if groups is None else [groups[i] for i in candidates],
        nms_thresh,
    )
    return [candidates[i] for i in kept][:num_samples]


def softmax_cross_entropy(scores: np.ndarray, gt_classes: np.ndarray) -> list[float]:
    result = []
    for row, label in zip(scores, gt_classes):
        shifted = row - row.max()
        result.append(float(np.log(np.exp(shifted).sum()) - shifted[label]))
    return result


def sigmoid_cross_entropy(scores: np.ndarray, gt_classes: np.ndarray) -> list[float]:
    result = []
    for row, label in zip(scores, gt_classes):
        loss = 0.0
        for k, logit in enumerate(row[:-1]):
            p = 1 / (1 + math.exp(-logit))
            loss -= math.log(p) if k == label else math.log(1 - p)
        result.append(loss)
    return result


def smooth_l1(deltas, proposals, gt_boxes, gt_classes, num_classes, weights, beta) -> list[float]:
    """Deltas (R, 4) or (R, 4K); the targets of R-CNN's parametrization; 0 for background."""
    result = []
    for row, p, g, label in zip(deltas, proposals, gt_boxes, gt_classes):
        if not 0 <= label < num_classes:
            result.append(0.0)
            continue
        predicted = row if len(row) == 4 else row[4 * label : 4 * label + 4]
        pw, ph, gw, gh = p[2] - p[0], p[3] - p[1], g[2] - g[0], g[3] - g[1]
        target = [
            weights[0] * ((g[0] + gw / 2) - (p[0] + pw / 2)) / pw,
            weights[1] * ((g[1] + gh / 2) - (p[1] + ph / 2)) / ph,
            weights[2] * math.log(gw / pw),
            weights[3] * math.log(gh / ph),
        ]
        loss = 0.0
        for x, t in zip(predicted, target):
            d = abs(x - t)
            loss += 0.5 * d * d / beta if d < beta else d - 0.5 * beta
        result.append(loss)
    return result
