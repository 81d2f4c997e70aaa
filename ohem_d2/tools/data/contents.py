"""
Check records in Detectron2's format: find what breaks a rule, and remove what is left out, so that
a report says what is done. Annotations are checked as arrays, those of a data set all at once.
"""

import dataclasses
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from detectron2.data.detection_utils import check_image_size, read_image
from detectron2.structures import BoxMode
from PIL import Image
from pycocotools import mask as mask_util

from ..errors import in_words
from .coco import sound_mask
from .rules import Fault, faults_of

_UPRIGHT = (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)  # Other boxes are not checked.
_MODES = (*_UPRIGHT, BoxMode.XYWHA_ABS)
_TEXTS = (str, os.PathLike)  # what can be the name of a file
_MANY_CROWDS = 0.05  # of all annotations; COCO has 0.012


@dataclasses.dataclass(frozen=True)
class Needs:
    """The parts of the data that a model needs."""

    num_classes: int
    masks: bool = False  #: each object has a segmentation
    polygons: bool = False  #: as polygons, not RLE
    keypoints: int = 0  #: number of keypoints of each object


def shortly(value: Any) -> str:
    """The value in a line of at most 100 characters."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def go_over(records: Sequence[dict], needs: Needs) -> tuple[list[dict], list[Fault], int]:
    """
    The records without the annotations that are left out (those given are not changed); the faults
    of images, annotations and any proposals; and the number of objects to train on.
    """
    return _Contents(records, needs).result()


class _Contents:
    """Images and annotations in columns."""

    def __init__(self, records: Sequence[dict], needs: Needs):
        self.records, self.needs = records, needs
        self.faults: list[Fault] = [*_file_faults(records), *_proposal_faults(records)]
        self.names = [str(record.get("file_name")) for record in records]
        self.counts = [len(record.get("annotations", ())) for record in records]
        self.annotations = [a for record in records for a in record.get("annotations", ())]
        self.image = np.repeat(np.arange(len(records)), self.counts)

    def result(self) -> tuple[list[dict], list[Fault], int]:
        """See :func:`go_over`."""
        sizes = self.sizes()
        crowd, strange = self.column("iscrowd", default=0)
        self.fault("bad crowd", "iscrowd", strange | ~np.isin(crowd, (0, 1)))
        objects = crowd == 0
        classes, strange = self.column("category_id")
        strange |= ~((classes >= 0) & (classes < self.needs.num_classes) & (classes % 1 == 0))
        most = self.needs.num_classes - 1
        self.fault("bad class", "category_id", strange & objects, most=most)
        kept = self.boxes(sizes)
        replaced = self.masks(objects & kept)
        kept[[i for i, mask in replaced.items() if mask is None]] = False
        if num := self.needs.keypoints:
            _, strange = self.column("keypoints", 3 * num)
            self.fault("no keypoints", "keypoints", strange & objects, num=num)
        self.crowds(crowd == 1)
        return self.without(~kept, replaced), self.faults, int((objects & kept).sum())

    def column(self, key: str, width: int = 0, default: Any = None) -> tuple:
        """The values of all annotations, and where they are no numbers: see :func:`_numbers`."""
        return _numbers([a.get(key, default) for a in self.annotations], width)

    def fault(self, rule: str, key: str, wrong: np.ndarray, **values: Any) -> None:
        """Note the annotations that are wrong, with their values."""
        places = ((self.names[self.image[i]], self.annotations[i]) for i in np.flatnonzero(wrong))
        where = (f"{name}: {shortly(a.get(key))}" for name, a in places)
        self.faults += faults_of(rule, where, **values)

    def sizes(self) -> np.ndarray:
        """(images, 2), width and height, infinite where they are not known."""
        given = [(record.get("width", 1), record.get("height", 1)) for record in self.records]
        sizes, strange = _numbers(given, 2)
        strange |= (sizes < 1).any(axis=1)
        where = (f"{self.names[i]}: {given[i]!r}" for i in np.flatnonzero(strange))
        self.faults += faults_of("bad size", where)
        known = [{"width", "height"} <= set(record) for record in self.records]
        sizes[strange | ~np.array(known, dtype=bool)] = np.inf
        return sizes

    def boxes(self, sizes: np.ndarray) -> np.ndarray:
        """The annotations whose boxes can be trained on."""
        mode, strange = self.column("bbox_mode")
        self.fault("bad mode", "bbox_mode", strange | ~np.isin(mode, _MODES))
        boxes, strange = self.column("bbox", 4)
        upright = np.isin(mode, _UPRIGHT)
        self.fault("bad box", "bbox", upright & strange)
        left = upright & ~strange
        with np.errstate(all="ignore"):
            small = left & (abs(boxes) <= 1).all(axis=1)
            boxes[:, 2:] += np.where((mode == BoxMode.XYWH_ABS)[:, None], boxes[:, :2], 0)
            size = sizes[self.image]
            conditions = {
                "not finite": np.isfinite(boxes),
                "no area": boxes[:, 2:] > boxes[:, :2],
                "outside": (boxes[:, 2:] > 0) & (boxes[:, :2] < size),
            }
            far = ((boxes[:, 2:] > 1.1 * size + 2) | (boxes[:, :2] < -0.1 * size - 2)).any(axis=1)
        for rule, holds in conditions.items():
            holds = holds.all(axis=1)
            self.fault(rule, "bbox", left & ~holds)
            left &= holds
        self.fault("far out", "bbox", left & far & np.isfinite(size).all(axis=1))
        if small.sum() > 0.5 * upright.sum():
            self.fault("below a pixel", "bbox", small)
        return left | ~upright

    def masks(self, objects: np.ndarray) -> dict[int, Any]:
        """The new segmentation of an annotation, by index; None to leave the annotation out."""
        found, wrong = {}, defaultdict(list)
        for i in np.flatnonzero(objects) if self.needs.masks else ():
            given = self.annotations[i].get("segmentation")
            mask, rule = _mask_of(given, self.needs.polygons)
            if rule:
                wrong[rule].append(f"{self.names[self.image[i]]}: {shortly(given)}")
            if mask is None or mask is not given:
                found[i] = mask
        self.faults += [fault for rule in wrong for fault in faults_of(rule, wrong[rule])]
        return found

    def crowds(self, crowd: np.ndarray) -> None:
        """Count regions to ignore, and name images that show nothing else."""
        others = Counter(self.image.tolist())
        others.subtract(self.image[crowd].tolist())
        only = (self.names[i] for i, num in others.items() if num == 0)
        values = {"num": int(crowd.sum()), "all": len(crowd)}
        found = faults_of("only crowds", only, **values)
        if not found and crowd.sum() > _MANY_CROWDS * len(crowd):
            images = dict.fromkeys(self.image[crowd].tolist())
            found = faults_of("crowds", (self.names[i] for i in images), **values)
        self.faults += found

    def without(self, left_out: np.ndarray, replaced: dict[int, Any]) -> list[dict]:
        """The records, without these annotations and with these segmentations."""
        starts, records = np.cumsum([0, *self.counts]), list(self.records)
        for n in {int(self.image[i]) for i in (*np.flatnonzero(left_out), *replaced)}:
            places = [i for i in range(starts[n], starts[n + 1]) if not left_out[i]]
            annotations = [
                self.annotations[i] | ({"segmentation": replaced[i]} if i in replaced else {})
                for i in places
            ]
            records[n] = {**records[n], "annotations": annotations}
        return records


def _mask_of(given: Any, polygons: bool) -> tuple[Any, str]:
    """A segmentation in Detectron2's format, None for none, and the rule that it breaks, if any."""
    if isinstance(given, np.ndarray):  # for a mapper of your own
        return given, ""
    if isinstance(given, dict):
        if not {"counts", "size"} <= given.keys():
            return given, "bad rle"
        if polygons:
            return given, "rle"
        counted = isinstance(given["counts"], list)
        return (mask_util.frPyObjects(given, *given["size"]) if counted else given), ""
    if not (sound := sound_mask(given)):
        return None, "no mask"
    return (given if len(sound) == len(given) else sound), ""


def _numbers(values: Sequence[Any], width: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """
    The values as an array (n,), or (n, width) if each has ``width`` numbers, with NaN for what is
    not a number; and a mask (n,) of these.
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
    except ValueError:  # lists of different lengths
        return None
    return array.astype(float) if array.dtype.kind in "biuf" and array.shape == shape else None


def _file_faults(records: Sequence[dict]) -> list[Fault]:
    nameless = (shortly(r) for r in records if not isinstance(r.get("file_name"), _TEXTS))
    if found := faults_of("no file name", nameless):
        return found
    names = Counter(os.fspath(record["file_name"]) for record in records)
    found = faults_of("image twice", (name for name, times in names.items() if times > 1))
    addresses = [name for name in names if name.partition("://")[0].isalpha() and "://" in name]
    found += faults_of("remote image", addresses)
    folders = defaultdict(list)
    for name in names.keys() - {*addresses}:
        folders[os.path.dirname(name)].append(name)
    missing = []
    for folder, inside in folders.items():
        # A folder is listed once, which is faster than to ask for each of its files.
        try:
            with os.scandir(folder or ".") as entries:
                files = {entry.name for entry in entries if entry.is_file()}
        except OSError:
            files = set()
        # A file system may ignore the case of letters.
        gone = [n for n in inside if os.path.basename(n) not in files and not os.path.isfile(n)]
        missing += [f"{name}{_hint(name, files)}" for name in sorted(gone)]
    return found + faults_of("missing image", missing)


def _hint(name: str, files: set[str]) -> str:
    """What the name of a missing file may mean, in a folder with these files."""
    if "://" in name:
        return ", which has an address in it: put the images into a folder"
    if os.path.isfile(meant := name.replace("\\", "/")):
        return f", whose backslashes are no folders here; there is {meant}"
    stem = os.path.splitext(os.path.basename(name))[0].lower()
    like = sorted(file for file in files if os.path.splitext(file)[0].lower() == stem)
    return f"; there is {like[0]}" if like else ""


def _proposal_faults(records: Sequence[dict]) -> list[Fault]:
    wrong = []
    for record in records:
        if "proposal_boxes" in record:
            keys = ("proposal_boxes", "proposal_objectness_logits")
            boxes, logits = (np.asarray(record.get(key)) for key in keys)
            shapes = logits.ndim == 1 and boxes.shape == (len(logits), 4)
            if not (shapes and np.isfinite(boxes).all() and np.isfinite(logits).all()):
                wrong.append(str(record.get("file_name")))
    return faults_of("bad proposals", wrong)


def image_faults(records: Sequence[dict], image_format: str = "") -> list[Fault]:
    """
    Find images of more than 8 bits by their headers, because reading cuts these bits off. With a
    format, read each image as for training, which takes as long, and find those that fail.
    """

    def look(record: dict) -> tuple[str, str]:
        name, bits = record.get("file_name"), ""
        if not isinstance(name, _TEXTS) or not os.path.isfile(name):  # reported already
            return "", ""
        try:
            with Image.open(name) as image:
                bits = f"{name}: {image.mode}" * (image.mode[0] in "IF")
            if image_format:
                check_image_size(dict(record), read_image(name, image_format))
        except Exception as e:  # Pillow raises many kinds
            return f"{name}: {in_words(e)}" * bool(image_format), bits
        return "", bits

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(look, records))
    bad, deep = ([of_image[i] for of_image in found if of_image[i]] for i in (0, 1))
    return faults_of("bad image", bad) + faults_of("saturated", deep)
