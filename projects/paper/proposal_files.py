"""
Detectron2's files of proposals: written, read and checked.

Such a file is a pickle of

    ids                 the images' ids, ints or strings
    boxes               for each image float32 (n, 4), XYXY in absolute pixels of the image
    objectness_logits   for each image float32 (n,); Detectron2 takes the highest first
    bbox_mode           BoxMode.XYXY_ABS

Coordinates are Detectron2's, continuous: a box from the first pixel to the last one of an image is
(0, 0, width, height).
"""

import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from detectron2.structures import BoxMode


def write_proposal_file(path: Path, ids: Sequence, boxes: Sequence, logits: Sequence) -> None:
    """Whole or not at all; the arguments as the file's keys above, of equal length."""
    data = {
        "ids": [plain_id(i) for i in ids],
        "boxes": [np.asarray(b, np.float32).reshape(-1, 4) for b in boxes],
        "objectness_logits": [np.asarray(x, np.float32) for x in logits],
        "bbox_mode": int(BoxMode.XYXY_ABS),
    }
    part = path.with_name(path.name + ".part")
    with open(part, "wb") as file:
        pickle.dump(data, file, protocol=4)
    part.replace(path)


def plain_id(image_id: object) -> int | str:
    """Without NumPy's types, which the VOC data sets have."""
    return int(image_id) if isinstance(image_id, (int, np.integer)) else str(image_id)


def logits_of_order(num: int) -> np.ndarray:
    """
    Objectness for proposals in order, float32 (num,), strictly decreasing from 0.

    Detectron2 sorts by it; with ties the order would be lost.
    """
    return -np.arange(num, dtype=np.float32)


def unique_boxes(boxes: np.ndarray) -> np.ndarray:
    """
    Indices, increasing, of the first of all boxes (n, 4) that are equal when rounded to pixels, as
    in Fast R-CNN's release.
    """
    _, first = np.unique(np.round(boxes), axis=0, return_index=True)
    return np.sort(first)


def filter_small_boxes(boxes: np.ndarray, min_size: float) -> np.ndarray:
    """Indices, increasing, of the boxes (n, 4) with no side shorter than min_size pixels."""
    return np.flatnonzero((boxes[:, 2:] - boxes[:, :2] >= min_size).all(axis=1))
