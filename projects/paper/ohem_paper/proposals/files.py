"""
Detectron2's proposal files: written, read and checked.

Such a file is a pickle of

    ids                 the images' ids, ints or strings
    boxes               for each image float32 (n, 4), XYXY in absolute pixels of the image
    objectness_logits   for each image float32 (n,); Detectron2 takes the highest first
    bbox_mode           BoxMode.XYXY_ABS

Coordinates are continuous, as everywhere in Detectron2: the box of a whole image is
(0, 0, width, height).
"""

import pickle
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from detectron2.structures import BoxMode

from ohem_d2.tools.data.unpickling import read_pickle
from ohem_d2.tools.errors import InputError
from ohem_d2.tools.files import must_exist, write_atomically

# Files of others round, or count pixels from 1.
TOLERANCE = 1.0


def write_proposal_file(
    path: Path, ids: Sequence, boxes: Sequence[np.ndarray], logits: Sequence[np.ndarray]
) -> None:
    """Written whole or not at all; the arguments are the keys above, of equal length."""
    data = {
        # without NumPy's types, which VOC data have
        "ids": [int(i) if isinstance(i, (int, np.integer)) else str(i) for i in ids],
        "boxes": [np.asarray(b, np.float32).reshape(-1, 4) for b in boxes],
        "objectness_logits": [np.asarray(x, np.float32) for x in logits],
        "bbox_mode": int(BoxMode.XYXY_ABS),
    }
    write_atomically(path, lambda file: pickle.dump(data, file, protocol=4))


def logits_of_order(num: int) -> np.ndarray:
    """
    Objectness of proposals whose order is all that is known, the best first: float32 (num,),
    strictly decreasing from 0, since Detectron2 sorts by it and would turn ties round.
    """
    return -np.arange(num, dtype=np.float32)


def select_boxes(boxes: np.ndarray, min_size: float, max_proposals: int) -> np.ndarray:
    """
    Indices, increasing, of the first boxes (n, 4) that are neither duplicates, that is, equal when
    rounded to pixels, nor shorter than ``min_size`` pixels on a side. Both as in the releases of
    Fast R-CNN and OHEM, but that those count one pixel less for a side.
    """
    keep = np.sort(np.unique(np.round(boxes), axis=0, return_index=True)[1])
    large = (boxes[keep, 2:] - boxes[keep, :2] >= min_size).all(axis=1)
    return keep[large][:max_proposals]


def read_proposal_file(path: Path) -> dict[str, list]:
    """
    Read a file, and check it as far as that goes without the data set. Returns the keys "ids",
    "boxes" (XYXY) and "objectness_logits", lists of equal length; within an image the best first,
    in the order that Detectron2 has them.
    """
    must_exist(path, "a proposal file, which projects/paper/make_proposals.py makes")
    data = read_pickle(path)
    if not isinstance(data, dict):
        raise InputError(f"{path} is no proposal file: it holds a {type(data).__name__}")
    old_names = {"indexes": "ids", "scores": "objectness_logits"}  # Detectron's
    data = {old_names.get(key, key): value for key, value in data.items()}
    for key in ("ids", "boxes", "objectness_logits"):
        if key not in data:
            raise InputError(f"{path} is no proposal file: the key {key!r} is missing")
        if not isinstance(data[key], (list, tuple)):
            raise InputError(f"{path}: {key!r} is a {type(data[key]).__name__}, not a list")
        if len(data[key]) != len(data["ids"]):
            sizes = f"'ids' has {len(data['ids'])} images, {key!r} has {len(data[key])}"
            raise InputError(f"{path}: {sizes}")
    ((image_id, times),) = Counter(map(str, data["ids"])).most_common(1) or [("", 0)]
    if times > 1:
        raise InputError(f"{path}: image {image_id} is there more than once")
    mode = data.get("bbox_mode", BoxMode.XYXY_ABS)
    if mode not in (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS):
        raise InputError(f"{path}: bbox_mode is {mode!r}, not BoxMode.XYXY_ABS")
    out: dict[str, list] = {"ids": list(data["ids"]), "boxes": [], "objectness_logits": []}
    for image_id, boxes, logits in zip(data["ids"], data["boxes"], data["objectness_logits"]):
        _check_arrays(f"{path}, image {image_id}", boxes, logits)
        order = logits.argsort()[::-1]
        out["boxes"].append(BoxMode.convert(boxes[order], BoxMode(mode), BoxMode.XYXY_ABS))
        out["objectness_logits"].append(logits[order])
    return out


def _check_arrays(where: str, boxes: object, logits: object) -> None:
    for name, array in (("boxes", boxes), ("objectness_logits", logits)):
        if not isinstance(array, np.ndarray):
            raise InputError(f"{where}: {name} are a {type(array).__name__}, not an array")
        # Detectron2 resizes boxes of integers to integers, rounded down.
        if array.dtype.kind != "f":
            raise InputError(f"{where}: {name} are {array.dtype}; store them as float32")
        if not np.isfinite(array).all():
            raise InputError(f"{where}: {name} are not all finite; make the file again")
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise InputError(f"{where}: boxes have shape {boxes.shape}, not (n, 4)")
    if logits.shape != boxes.shape[:1]:
        shape = f"{logits.shape} for {len(boxes)} boxes"
        raise InputError(f"{where}: objectness_logits have shape {shape}")


def check_proposal_file(path: Path, records: Sequence[dict]) -> list[np.ndarray]:
    """
    Check that a data set's file can be trained or tested with, before Detectron2 reads it. Images
    that are in the file only do no harm. Returns the boxes (n, 4), XYXY, of each record, the best
    first; InputError names the file, the image, what is wrong and how to mend it.
    """
    data = read_proposal_file(path)
    boxes = in_order_of(records, data["ids"], data["boxes"], path)
    for record, of_image in zip(records, boxes):
        check_boxes(f"{path}, image {record['image_id']}", of_image, record)
    return boxes


def in_order_of(records: Sequence[dict], ids: Sequence, values: Sequence, path: Path) -> list:
    """What a file has with its images' ids. Raises InputError if it lacks images of the data."""
    value_of = dict(zip(map(str, ids), values))
    missing = [str(r["image_id"]) for r in records if str(r["image_id"]) not in value_of]
    if missing:
        lacks = f"{len(missing)} of the data set's {len(records)} images, such as {missing[0]}"
        has = next(iter(value_of), "none")
        raise InputError(f"{path} lacks {lacks}; it has such as {has}. Make it from this data set")
    return [value_of[str(r["image_id"])] for r in records]


def check_boxes(where: str, boxes: np.ndarray, record: dict) -> None:
    """Raises InputError if boxes (n, 4), XYXY, are empty or not on the record's image."""
    empty = np.flatnonzero((boxes[:, 2:] <= boxes[:, :2]).any(axis=1))
    if len(empty):
        such = f"such as {boxes[empty[0]].tolist()}; allowed: x1 < x2 and y1 < y2"
        raise InputError(f"{where}: {len(empty)} boxes have no area, {such}")
    if "height" not in record or "width" not in record:
        return
    size = np.tile([record["width"], record["height"]], 2)
    outside = np.flatnonzero(((boxes < -TOLERANCE) | (boxes > size + TOLERANCE)).any(axis=1))
    if len(outside):
        has = f"which has {record['width']} x {record['height']} pixels on disk"
        such = f"such as {boxes[outside[0]].tolist()}"
        raise InputError(f"{where}: {len(outside)} boxes reach out of the image, {has}, {such}")
