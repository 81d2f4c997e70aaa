"""Selective-search proposals in MATLAB's format, as they are shared for Fast R-CNN."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.io import loadmat

from ohem_d2.tools.errors import InputError
from ohem_d2.tools.files import must_exist

from .files import check_boxes, in_order_of


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
        boxes = in_order_of(records, ids, boxes, path)
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
    if not np.isfinite(boxes).all():
        raise InputError(f"{where}: boxes are not all finite")
    check_boxes(where, boxes, record)
    return boxes
