"""How many of a data set's objects a set of proposals has: whether it is good to train with."""

from collections.abc import Sequence

import numpy as np
import torch
from detectron2.structures import Boxes, BoxMode, pairwise_iou

from ohem_d2.tools.runs import markdown_table

LIMITS = (50, 100, 300, 1000, 2000)
THRESHOLDS = (0.5, 0.7)


def recall(
    proposals: Sequence[np.ndarray], objects: Sequence[np.ndarray], limits=LIMITS, ious=THRESHOLDS
) -> np.ndarray:
    """
    The share of objects, over all images, that have a proposal with at least some IoU among the
    first ones of their image, of shape (limits, ious); nan if there are no objects. A proposal may
    count for several. Each image has proposals (n, 4), the best first, and objects (m, 4), XYXY.
    """
    best = [[np.zeros(0)] for _ in limits]  # best IoU of every object, by limit and image
    for arrays in zip(proposals, objects, strict=True):
        boxes = [torch.as_tensor(np.ascontiguousarray(a, np.float32)) for a in arrays]
        iou = pairwise_iou(*(Boxes(b.reshape(-1, 4)) for b in boxes)).numpy()
        for i, limit in enumerate(limits):
            best[i].append(iou[:limit].max(axis=0, initial=0.0))
    overlaps = np.stack([np.concatenate(row) for row in best])
    if overlaps.shape[1] == 0:
        return np.full((len(limits), len(ious)), np.nan)
    return (overlaps[:, :, None] >= np.asarray(ious)).mean(axis=1)


def objects_of(record: dict, crowds: bool = False) -> np.ndarray:
    """The boxes, float32 (m, 4), XYXY, of a record's objects, or of its crowd regions."""
    annotations = [a for a in record.get("annotations", []) if a.get("iscrowd", 0) == crowds]
    boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations]
    return np.array(boxes, np.float32).reshape(-1, 4)


def recall_table(proposals: Sequence[np.ndarray], objects: Sequence[np.ndarray]) -> str:
    """Markdown; arguments as of :func:`recall`."""
    counts = [len(p) for p in proposals]
    rows = recall(proposals, objects, (*LIMITS, max(counts)))
    header = ["proposals", *(f"recall, IoU {t}" for t in THRESHOLDS)]
    cells = [[str(n), *(f"{100 * r:.1f} %" for r in row)] for n, row in zip((*LIMITS, "all"), rows)]
    size = f"{np.mean(counts):.0f} proposals an image ({min(counts)} to {max(counts)})"
    head = f"{sum(map(len, objects))} objects on {len(objects)} images; {size}"
    return "\n".join([head, "", *markdown_table(header, cells)])
