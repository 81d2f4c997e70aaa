"""
Write and check Detectron2's proposal files, and read MATLAB's, in which Fast R-CNN's are shared.

Detectron2's is a pickle of

    ids                 the images' ids, ints or strings
    boxes               for each image float32 (n, 4), XYXY in absolute pixels of the image
    objectness_logits   for each image float32 (n,); Detectron2 takes the highest first
    bbox_mode           BoxMode.XYXY_ABS

Coordinates are continuous, as everywhere in Detectron2: the box of a whole image is
(0, 0, width, height).
"""

import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from detectron2.structures import BoxMode
from scipy.io import loadmat

from ohem_d2.tools.data.records import proposal_file, records_of
from ohem_d2.tools.errors import InputError
from ohem_d2.tools.files import must_exist, write_atomically

# Other people's files are rounded, or count pixels from 1.
TOLERANCE = 1.0


def write_proposal_file(path: Path, ids: Sequence, boxes: Sequence[np.ndarray]) -> None:
    """
    Write the id and the boxes (n, 4), best first, of each image, whole or not at all. The
    objectness decreases strictly, because Detectron2 sorts by it and would reverse ties.
    """
    data = {
        # without NumPy's types, which VOC data have
        "ids": [int(i) if isinstance(i, (int, np.integer)) else str(i) for i in ids],
        "boxes": [np.asarray(b, np.float32).reshape(-1, 4) for b in boxes],
        "objectness_logits": [-np.arange(len(b), dtype=np.float32) for b in boxes],
        "bbox_mode": int(BoxMode.XYXY_ABS),
    }
    write_atomically(path, lambda file: pickle.dump(data, file, protocol=4))


def select_boxes(boxes: np.ndarray, min_size: float, max_proposals: int) -> np.ndarray:
    """
    Increasing indices of the first ``max_proposals`` boxes (n, 4), without duplicates (equal when
    rounded to pixels) and without boxes with a side below ``min_size`` pixels. As in the releases
    of Fast R-CNN and OHEM, except that those count one pixel less for a side.
    """
    keep = np.sort(np.unique(np.round(boxes), axis=0, return_index=True)[1])
    large = (boxes[keep, 2:] - boxes[keep, :2] >= min_size).all(axis=1)
    return keep[large][:max_proposals]


def check_proposals(cfg: CfgNode, name: str, split: str) -> None:
    """
    Check that a data set of the configuration, "TRAIN" or "TEST", can be used with its proposal
    file. InputError names the file, the image, what is wrong and what is allowed.
    """
    file = proposal_file(cfg, name, split)
    for record in records_of(cfg, name, split):
        boxes, mode = record["proposal_boxes"], record["proposal_bbox_mode"]
        where = f"{file}, image {record['image_id']}"
        if mode not in (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS):
            raise InputError(f"{where}: bbox_mode is {mode!r}, not BoxMode.XYXY_ABS")
        if boxes.ndim == 2 and boxes.shape[1] == 4:  # else that is said below
            boxes = BoxMode.convert(boxes, mode, BoxMode.XYXY_ABS)
        if not np.isfinite(record["proposal_objectness_logits"]).all():
            raise InputError(f"{where}: objectness_logits are not all finite")
        # Detectron2 resizes boxes of integers to integers, rounded down.
        if boxes.dtype.kind != "f":
            raise InputError(f"{where}: boxes are {boxes.dtype}; store them as float32")
        check_boxes(where, boxes, record)


def check_boxes(where: str, boxes: np.ndarray, record: dict) -> None:
    """Raises InputError unless boxes are (n, 4), XYXY, with an area and on the record's image."""
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise InputError(f"{where}: boxes have shape {boxes.shape}, not (n, 4)")
    if not np.isfinite(boxes).all():
        raise InputError(f"{where}: boxes are not all finite")
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


def read_mat(path: Path, records: Sequence[dict]) -> list[np.ndarray]:
    """
    For each record of a data set float32 (n, 4), XYXY in Detectron2's coordinates, in the file's
    order, which is that of the ranks.

    The file has a cell array "boxes" of (n, 4) each, (y1, x1, y2, x2), first and last pixel,
    counted from 1; and perhaps a cell array "images" of the images' ids. Without it the images must
    be those of the data set, in its order. InputError names the file and image, and what is wrong.
    """
    must_exist(path, "a file with a cell array 'boxes'")
    try:
        data = loadmat(path, variable_names=["boxes", "images"])
    except NotImplementedError as e:
        message = f"{path} is of MATLAB 7.3; save it again in MATLAB with save(..., '-v7')"
        raise InputError(message) from e
    except Exception as e:  # a broken file may raise anything
        raise InputError(f"{path} is no .mat file that can be read: {e}") from e
    if "boxes" not in data or data["boxes"].dtype != object:
        raise InputError(f"{path} has no cell array 'boxes'")
    boxes = data["boxes"].ravel()
    if "images" in data:
        ids = [str(np.squeeze(i)) for i in data["images"].ravel()]
        if len(ids) != len(boxes):
            raise InputError(f"{path} has boxes of {len(boxes)} images, but {len(ids)} ids")
        of_image = dict(zip(ids, boxes))
        if missing := [r["image_id"] for r in records if str(r["image_id"]) not in of_image]:
            lacks = f"{len(missing)} of the data set's {len(records)} images, such as {missing[0]}"
            raise InputError(f"{path} lacks {lacks}")
        boxes = [of_image[str(r["image_id"])] for r in records]
    elif len(boxes) != len(records):
        sizes = f"boxes of {len(boxes)} images; the data set has {len(records)}"
        raise InputError(f"{path} has no ids and {sizes}")
    return [_convert(f"{path}, image {r['image_id']}", b, r) for r, b in zip(records, boxes)]


def _convert(where: str, boxes: np.ndarray, record: dict) -> np.ndarray:
    if boxes.size == 0:
        return np.zeros((0, 4), np.float32)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or boxes.dtype.kind not in "iuf":
        raise InputError(f"{where}: boxes are {boxes.dtype} {boxes.shape}, not numbers (n, 4)")
    boxes = boxes[:, [1, 0, 3, 2]].astype(np.float32)
    # Pixels from 1 to the image's width are the stretch from 0 to its width.
    boxes[:, :2] -= 1
    check_boxes(where, boxes, record)
    return boxes
