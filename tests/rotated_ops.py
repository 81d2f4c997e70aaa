"""
Stand-ins in Python for the compiled operators of Detectron2 that rotated boxes need, written from
their definition. Boxes are (center x, center y, width, height, angle in degrees, counter-clockwise
in an image whose y points down).
"""

import math

import numpy as np
import torch
from torch.nn import functional as F


def corners(box):
    x, y, w, h, angle = (float(v) for v in box)
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    halves = ((-w / 2, -h / 2), (w / 2, -h / 2), (w / 2, h / 2), (-w / 2, h / 2))
    return [(x + u * c + v * s, y - u * s + v * c) for u, v in halves]


def overlap(polygon, other):
    """Area of what is left of a polygon after it is clipped by the edges of a convex one."""
    for (ax, ay), (bx, by) in zip(other, other[1:] + other[:1]):
        side = [(bx - ax) * (y - ay) - (by - ay) * (x - ax) for x, y in polygon]
        clipped = []
        for i, point in enumerate(polygon):
            j = i - 1
            if (side[i] >= 0) != (side[j] >= 0):
                t = side[j] / (side[j] - side[i])
                clipped.append(tuple(p + t * (q - p) for p, q in zip(polygon[j], point)))
            if side[i] >= 0:
                clipped.append(point)
        polygon = clipped
    x, y = np.array(polygon).reshape(-1, 2).T
    return 0.5 * abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))))


def iou(a, b):
    common = overlap(corners(a), corners(b))
    union = float(a[2]) * float(a[3]) + float(b[2]) * float(b[3]) - common
    return common / union if union > 0 else 0.0


def box_iou_rotated(boxes1, boxes2):
    ious = [[iou(a, b) for b in boxes2.tolist()] for a in boxes1.tolist()]
    return torch.tensor(ious).view(len(boxes1), len(boxes2))


def nms_rotated(boxes, scores, iou_threshold):
    boxes, kept = boxes.double(), []
    for i in torch.sort(scores, descending=True, stable=True).indices.tolist():
        if all(not iou(boxes[i], boxes[j]) > iou_threshold for j in kept):
            kept.append(i)
    return torch.tensor(kept, dtype=torch.int64)


def roi_align_rotated_forward(features, rois, scale, height, width, sampling_ratio):
    """With one sample in the middle of each bin."""
    image, x, y, w, h, angle = rois.unbind(dim=1)
    c, s = torch.cos(torch.deg2rad(angle)), torch.sin(torch.deg2rad(angle))
    v, u = torch.meshgrid(
        (torch.arange(height) + 0.5) / height - 0.5,
        (torch.arange(width) + 0.5) / width - 0.5,
        indexing="ij",
    )
    u, v = u * (w * scale).view(-1, 1, 1), v * (h * scale).view(-1, 1, 1)
    c, s, x, y = (t.view(-1, 1, 1) for t in (c, s, x, y))
    # grid_sample counts from -1 at the left edge of the first pixel to 1 at the right of the last.
    grid_x = 2 * (x * scale + u * c + v * s) / features.shape[3] - 1
    grid_y = 2 * (y * scale - u * s + v * c) / features.shape[2] - 1
    grid = torch.stack([grid_x, grid_y], dim=3)
    pooled = [
        F.grid_sample(features[int(n)][None], g[None], align_corners=False)
        for n, g in zip(image, grid)
    ]
    return torch.cat(pooled) if pooled else features.new_zeros(0, features.shape[1], height, width)


def roi_align_rotated_backward(grad, rois, scale, height, width, n, channels, h, w, sampling_ratio):
    with torch.enable_grad():
        features = torch.zeros(n, channels, h, w, requires_grad=True)
        pooled = roi_align_rotated_forward(features, rois, scale, height, width, sampling_ratio)
        if len(pooled) == 0:
            return torch.zeros_like(features)
        return torch.autograd.grad(pooled, features, grad)[0]
