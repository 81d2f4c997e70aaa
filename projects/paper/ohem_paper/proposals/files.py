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
from detectron2.config import CfgNode
from detectron2.structures import BoxMode

from ohem_d2.tools.data.unpickling import read_pickle
from ohem_d2.tools.files import write_atomically

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


def unique_boxes(boxes: np.ndarray) -> np.ndarray:
    """
    Indices, increasing, of the first ones of boxes (n, 4) that are equal when rounded to pixels, as
    in the releases of Fast R-CNN and OHEM.
    """
    return np.sort(np.unique(np.round(boxes), axis=0, return_index=True)[1])


def filter_small_boxes(boxes: np.ndarray, min_size: float) -> np.ndarray:
    """
    Indices, increasing, of the boxes (n, 4) with both sides at least min_size pixels long.

    The releases count x2 - x1 between the first and the last pixel of a box, one less than here.
    """
    return np.flatnonzero((boxes[:, 2:] - boxes[:, :2] >= min_size).all(axis=1))


def select_boxes(boxes: np.ndarray, min_size: float, max_proposals: int) -> np.ndarray:
    """Indices of the first max_proposals boxes (n, 4) that are neither duplicates nor small."""
    keep = unique_boxes(boxes)
    return keep[filter_small_boxes(boxes[keep], min_size)][:max_proposals]


def read_proposal_file(path: Path) -> dict[str, list]:
    """
    Read a file without running what it may contain, and check it as far as that goes without the
    data set, with the same errors.

    Returns:
        the keys "ids", "boxes" (XYXY) and "objectness_logits", lists of equal length; within an
        image the best first, in the order that Detectron2 has them.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist; it should be a proposal file, which "
            "projects/paper/make_proposals.py makes"
        )
    data = read_pickle(path)
    if not isinstance(data, dict):
        raise ValueError(f"{path} is no proposal file: it holds a {type(data).__name__}")
    old_names = {"indexes": "ids", "scores": "objectness_logits"}  # Detectron's
    data = {old_names.get(key, key): value for key, value in data.items()}
    for key in ("ids", "boxes", "objectness_logits"):
        if key not in data:
            raise ValueError(f"{path} is no proposal file: the key {key!r} is missing")
        if not isinstance(data[key], (list, tuple)):
            raise ValueError(f"{path}: {key!r} is a {type(data[key]).__name__}, not a list")
        if len(data[key]) != len(data["ids"]):
            raise ValueError(
                f"{path}: 'ids' has {len(data['ids'])} images, {key!r} has {len(data[key])}"
            )
    ((image_id, times),) = Counter(map(str, data["ids"])).most_common(1) or [("", 0)]
    if times > 1:
        raise ValueError(f"{path}: image {image_id} is there more than once")
    mode = data.get("bbox_mode", BoxMode.XYXY_ABS)
    if mode not in (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS):
        raise ValueError(f"{path}: bbox_mode is {mode!r}, not BoxMode.XYXY_ABS")
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
            raise ValueError(f"{where}: {name} are a {type(array).__name__}, not an array")
        # Detectron2 resizes boxes of integers to integers, rounded down.
        if array.dtype.kind != "f":
            raise ValueError(f"{where}: {name} are {array.dtype}; store them as float32")
        if not np.isfinite(array).all():
            raise ValueError(f"{where}: {name} are not all finite; make the file again")
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"{where}: boxes have shape {boxes.shape}, not (n, 4)")
    if logits.shape != boxes.shape[:1]:
        raise ValueError(
            f"{where}: objectness_logits have shape {logits.shape} for {len(boxes)} boxes"
        )


def check_proposal_file(path: Path, records: Sequence[dict]) -> list[np.ndarray]:
    """
    Check that a data set's file can be trained or tested with, before Detectron2 reads it. Images
    that are in the file only do no harm.

    Returns:
        the boxes (n, 4), XYXY, of each record, the best first.

    Raises:
        FileNotFoundError, ValueError: names the file, the image, what is wrong and how to mend it.
    """
    data = read_proposal_file(path)
    boxes = in_order_of(records, data["ids"], data["boxes"], path)
    for record, of_image in zip(records, boxes):
        check_boxes(f"{path}, image {record['image_id']}", of_image, record)
    return boxes


def in_order_of(records: Sequence[dict], ids: Sequence, values: Sequence, path: Path) -> list:
    """What a file has with its images' ids. Raises ValueError if it lacks images of the data."""
    value_of = dict(zip(map(str, ids), values))
    missing = [str(r["image_id"]) for r in records if str(r["image_id"]) not in value_of]
    if missing:
        raise ValueError(
            f"{path} lacks {len(missing)} of the data set's {len(records)} images, such as "
            f"{missing[0]}; it has such as {next(iter(value_of), 'none')}. Make it from this data "
            "set, or take the file that belongs to it"
        )
    return [value_of[str(r["image_id"])] for r in records]


def check_boxes(where: str, boxes: np.ndarray, record: dict) -> None:
    """Raises ValueError if boxes (n, 4), XYXY, are empty or not on the record's image."""
    empty = np.flatnonzero((boxes[:, 2:] <= boxes[:, :2]).any(axis=1))
    if len(empty):
        raise ValueError(
            f"{where}: {len(empty)} boxes have no area, such as {boxes[empty[0]].tolist()}; they "
            "should be (x1, y1, x2, y2) with x1 < x2 and y1 < y2"
        )
    if "height" not in record or "width" not in record:
        return
    size = np.tile([record["width"], record["height"]], 2)
    outside = np.flatnonzero(((boxes < -TOLERANCE) | (boxes > size + TOLERANCE)).any(axis=1))
    if len(outside):
        raise ValueError(
            f"{where}: {len(outside)} boxes reach out of the image, which has {record['width']} x "
            f"{record['height']} pixels, such as {boxes[outside[0]].tolist()}; they should be "
            "(x1, y1, x2, y2) in pixels of the image as it is on disk"
        )


def files_by_data(cfg: CfgNode, split: str) -> list[tuple[str, str]]:
    """The data sets of "TRAIN" or "TEST", each with its file. Raises ValueError if one has none."""
    data, files = cfg.DATASETS[split], cfg.DATASETS[f"PROPOSAL_FILES_{split}"]
    if len(data) != len(files):
        raise ValueError(
            f"DATASETS.PROPOSAL_FILES_{split} = {files!r}; allowed: one file for each of "
            f"DATASETS.{split}, which is {data!r}"
        )
    return list(zip(data, files))
