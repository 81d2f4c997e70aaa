"""
Find what of a data set would stop a training, perhaps after hours, or would be left out of it
without a word. Annotations are checked as arrays, those of a data set all at once; the images
themselves are looked at by :func:`image_faults` alone.
"""

import dataclasses
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from detectron2.data.detection_utils import check_image_size, read_image
from detectron2.structures import BoxMode

from ..errors import in_words, printable

_UPRIGHT = (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)  # Other boxes are not looked at.
_MODES = (*_UPRIGHT, BoxMode.XYWHA_ABS)


@dataclasses.dataclass(frozen=True)
class Fault:
    """One kind of fault of a data set."""

    what: str  #: in words, of several
    where: list[str]  #: each place that has it; at least one
    stops: bool = True  #: a run, sooner or later; else what is at fault is left out of it

    def __post_init__(self):
        # Places have names that the data give.
        object.__setattr__(self, "where", [printable(place) for place in self.where])

    @property
    def heading(self) -> str:
        """How many, and of what."""
        return f"{len(self.where)} {self.what}{'' if self.stops else ', which are left out'}"

    def __str__(self) -> str:
        return f"{self.heading}, such as {self.where[0]}"


def faults_if_any(what: str, where: Iterable[str], stops: bool = True) -> list[Fault]:
    """The fault, if there is a place that has it."""
    where = list(where)
    return [Fault(what, where, stops)] if where else []


@dataclasses.dataclass(frozen=True)
class Needs:
    """The parts of its data that a model takes."""

    num_classes: int
    masks: bool = False  #: a segmentation of each object
    polygons: bool = False  #: and no RLE among them
    keypoints: int = 0  #: so many of each object


def shortly(value: Any) -> str:
    """The value in a line of at most 100 characters."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def record_faults(records: Sequence[dict], needs: Needs) -> tuple[list[Fault], int]:
    """
    Find the faults of images with annotations, and with proposals if they have some, in
    Detectron2's format, and count the objects that can be trained on.
    """
    faults = [*_file_faults(records), *_proposal_faults(records)]
    names = [str(record.get("file_name")) for record in records]
    given = [(record.get("width", 1), record.get("height", 1)) for record in records]
    sizes, strange = _numbers(given, 2)
    strange |= (sizes < 1).any(axis=1)
    where = (f"{names[i]}: {given[i]!r}" for i in np.flatnonzero(strange))
    faults += faults_if_any("images whose width and height are not above 0", where)
    sizes[strange | [not {"width", "height"} <= set(record) for record in records]] = np.inf
    of_annotations, objects = _annotation_faults(records, names, sizes, needs)
    return faults + of_annotations, objects


def _annotation_faults(
    records: Sequence[dict], names: Sequence[str], sizes: np.ndarray, needs: Needs
) -> tuple[list[Fault], int]:
    """``sizes``: (images, 2), width and height, infinite where they are not known."""
    faults: list[Fault] = []
    annotations = [a for record in records for a in record.get("annotations", ())]
    image = np.repeat(range(len(records)), [len(r.get("annotations", ())) for r in records])

    def column(key: str, width: int = 0, default: Any = None) -> tuple[np.ndarray, np.ndarray]:
        return _numbers([a.get(key, default) for a in annotations], width)

    def fault(what: str, key: str, wrong: np.ndarray, stops: bool = True) -> None:
        values = ((names[image[i]], annotations[i].get(key)) for i in np.flatnonzero(wrong))
        where = (f"{name}: {shortly(value)}" for name, value in values)
        faults.extend(faults_if_any(what, where, stops))

    crowd, strange = column("iscrowd", default=0)
    strange |= ~np.isin(crowd, (0, 1))
    fault("annotations whose iscrowd is neither 0 nor 1", "iscrowd", strange)
    objects = crowd == 0

    classes, strange = column("category_id")
    strange |= ~((classes >= 0) & (classes < needs.num_classes) & (classes % 1 == 0))
    allowed = f"from 0 to {needs.num_classes - 1}, as MODEL.ROI_HEADS.NUM_CLASSES has it"
    what = f"annotations whose category_id is no whole number {allowed}"
    fault(what, "category_id", strange & objects)

    mode, strange = column("bbox_mode")
    what = "annotations whose bbox_mode is none of BoxMode's"
    fault(what, "bbox_mode", strange | ~np.isin(mode, _MODES))
    boxes, strange = column("bbox", 4)
    upright = np.isin(mode, _UPRIGHT)
    what = "annotations whose bbox is not four numbers"
    fault(what, "bbox", upright & strange)
    left = upright & ~strange
    with np.errstate(all="ignore"):
        boxes[:, 2:] += np.where((mode == BoxMode.XYWH_ABS)[:, None], boxes[:, :2], 0)
        inside = (boxes[:, 2:] > 0) & (boxes[:, :2] < sizes[image])
        conditions = {
            "boxes that are not finite": np.isfinite(boxes),
            "boxes without an area": boxes[:, 2:] > boxes[:, :2],
            "boxes outside the image": inside,
        }
    for what, holds in conditions.items():
        holds = holds.all(axis=1)
        fault(what, "bbox", left & ~holds, stops=False)
        left &= holds

    shapes = [a.get("segmentation") for a in annotations]
    # A mask in an array, which mappers of one's own take, is not asked whether it is empty.
    some = np.array([isinstance(shape, np.ndarray) or bool(shape) for shape in shapes], bool)
    if needs.masks:
        fault("annotations without a segmentation", "segmentation", ~some & objects)
    if needs.polygons:
        encoded = np.array([isinstance(shape, dict) for shape in shapes], bool)
        what = "annotations whose segmentation is RLE, which takes INPUT.MASK_FORMAT bitmask"
        fault(what, "segmentation", encoded & some & objects)
    if needs.keypoints:
        what = f"annotations without {needs.keypoints} keypoints, three numbers each"
        _, strange = column("keypoints", 3 * needs.keypoints)
        fault(what, "keypoints", strange & objects)
    return faults, int((objects & (left | ~upright)).sum())


def _numbers(values: Sequence[Any], width: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """
    The values as an array (n,) of numbers, or (n, width) of so many numbers each, NaN where they
    are something else, and where that is, (n,).
    """
    shape = (len(values), width) if width else (len(values),)
    array = _as_numbers(values, shape) if values else np.zeros(shape)
    if array is not None:
        return array, np.zeros(len(values), bool)
    rows = [_as_numbers(value, shape[1:]) for value in values]
    missing = np.full(shape[1:], np.nan)
    array = np.stack([missing if row is None else row for row in rows])
    return array, np.array([row is None for row in rows])


def _as_numbers(value: Any, shape: tuple[int, ...]) -> np.ndarray | None:
    try:
        array = np.array(value)
    except ValueError:  # of lists of different lengths
        return None
    return array.astype(float) if array.dtype.kind in "biuf" and array.shape == shape else None


def _file_faults(records: Sequence[dict]) -> list[Fault]:
    texts = (str, os.PathLike)
    nameless = (shortly(r) for r in records if not isinstance(r.get("file_name"), texts))
    if faults := faults_if_any("images without a file_name", nameless):
        return faults
    folders = defaultdict(list)
    for record in records:
        if "://" not in (name := os.fspath(record["file_name"])):
            folders[os.path.dirname(name)].append(name)
    missing = []
    for folder, names in folders.items():
        # A folder is listed once, which is faster than to ask for each of its files.
        try:
            with os.scandir(folder or ".") as entries:
                files = {entry.name for entry in entries if entry.is_file()}
        except OSError:
            files = set()
        missing += [
            name
            for name in names
            # A file system may take other letters for the same.
            if os.path.basename(name) not in files and not os.path.isfile(name)
        ]
    return faults_if_any("images that are not there, or are no files", missing)


def _proposal_faults(records: Sequence[dict]) -> list[Fault]:
    proposals = ("proposal_boxes", "proposal_objectness_logits")
    of_images = (
        (r["file_name"], *(r[key] for key in proposals)) for r in records if proposals[0] in r
    )
    where = (name for name, *arrays in of_images if not _are_proposals(*arrays))
    return faults_if_any("images with proposals that are not finite, four numbers to a box", where)


def _are_proposals(boxes: Any, logits: Any) -> bool:
    boxes, logits = np.asarray(boxes), np.asarray(logits)
    shapes = boxes.shape == (len(logits), 4) and logits.ndim == 1
    return bool(shapes and np.isfinite(boxes).all() and np.isfinite(logits).all())


def image_faults(records: Sequence[dict], image_format: str) -> list[Fault]:
    """Read each image as for training, which takes as long as it does, and find those at fault."""

    def fault(record: dict) -> str:
        name = record.get("file_name", "")
        if not os.path.isfile(name):  # which has been told
            return ""
        try:
            check_image_size(dict(record), read_image(name, image_format))
        except Exception as e:  # Pillow raises many kinds
            return f"{name}: {in_words(e)}"
        return ""

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        where = filter(None, pool.map(fault, records))
        return faults_if_any("images that cannot be read, or are of another size", where)
