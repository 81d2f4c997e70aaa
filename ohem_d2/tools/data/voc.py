"""Read data in Pascal VOC format: a folder with Annotations/, JPEGImages/ and ImageSets/Main/."""

import dataclasses
import functools
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from detectron2.structures import BoxMode

from ..errors import InputError
from ..files import must_be_file, must_exist
from .coco import size_of_file
from .rules import Fault, faults_of


@dataclasses.dataclass(frozen=True)
class VOCObject:
    """An ``<object>``."""

    name: str  #: of its class
    box: tuple[float, float, float, float]  #: XYXY pixels as in the file, where VOC counts from 1
    difficult: bool = False  #: as marked


@dataclasses.dataclass(frozen=True)
class VOCImage:
    """The annotation of an image."""

    objects: list[VOCObject]  #: in their order
    size: tuple[int, int] | None = None  #: width and height, if given


def read_voc(source: str | Path | bytes, what: str = "") -> VOCImage:
    """
    Read the annotation of one image from a file or its content. InputError calls it ``what``, and
    says what is wrong with it. Parts that a training does not need may be missing.
    """
    what = what or ("annotations" if isinstance(source, bytes) else str(source))
    if not isinstance(source, bytes):
        must_be_file(source, "annotations in Pascal VOC format")
        try:
            source = Path(source).read_bytes()
        except OSError as e:
            raise InputError(f"{what} cannot be read: {e.strerror}") from e
    try:
        root = ElementTree.fromstring(source)
    except (ElementTree.ParseError, LookupError, ValueError) as e:  # the last two: its encoding
        raise InputError(f"{what} is not XML: {e}") from e
    if root.tag != "annotation":
        raise InputError(f"{what} is not in Pascal VOC format: it is <{root.tag}>, no <annotation>")
    objects = [_read_object(found, what) for found in root.iter("object")]
    size = [_number(root, f"size/{side}", what, "0") for side in ("width", "height")]
    return VOCImage(objects, tuple(map(int, size)) if min(size) >= 1 else None)


def _read_object(found: ElementTree.Element, what: str) -> VOCObject:
    name = (found.findtext("name") or "").strip()
    if not name:
        raise InputError(f"{what} is not in Pascal VOC format: the <name> of an <object> is empty")
    difficult = bool(_number(found, "difficult", what, "0"))
    sides = ("xmin", "ymin", "xmax", "ymax")
    return VOCObject(name, tuple(_number(found, f"bndbox/{s}", what) for s in sides), difficult)


def _number(element: ElementTree.Element, tag: str, what: str, absent: str = "") -> float:
    text = element.findtext(tag) or absent
    try:
        number = float(text)
        if math.isfinite(number):
            return number
    except ValueError:
        pass
    raise InputError(f"{what} is not in Pascal VOC format: <{tag}> is {text!r}; a number is needed")


@functools.cache
def _read_version(file: str, *version: int) -> VOCImage:
    return read_voc(file)


def read_annotation(folder: str | Path, image_id: str) -> VOCImage:
    """Read the annotation of an image in the folder, once for each version of the file."""
    file = _annotation(folder, image_id)
    must_exist(file, f"the annotation of {image_id}, which a list in ImageSets/Main has")
    state = os.stat(file)
    return _read_version(str(file), state.st_mtime_ns, state.st_size)


def _annotation(folder: str | Path, image_id: str) -> Path:
    return Path(folder, "Annotations", f"{image_id}.xml")


def voc_classes(folder: str) -> set[str]:
    """
    The classes that a folder's annotations name, for all splits, because training and test share
    them. Files that cannot be read matter only in the split that lists them.
    """
    annotations, names = Path(folder, "Annotations"), set()
    must_exist(annotations, "the folder of annotations in Pascal VOC format")
    for file in annotations.glob("[!.]*.xml"):
        try:
            names |= {found.name for found in read_annotation(folder, file.stem).objects}
        except InputError:
            continue
    return names


def image_ids(folder: str, split: str) -> tuple[list[str], list[Fault]]:
    """The images that the list of a split names, one per line, and what is odd about it."""
    file = Path(folder, "ImageSets", "Main", f"{split}.txt")
    must_be_file(file, "the list of images in Pascal VOC format")
    ids, flagged = [], []
    text = file.read_text("utf-8-sig", "replace")  # Windows puts a mark at the beginning.
    for line in filter(None, map(str.strip, text.splitlines())):
        # VOC's lists of one class say whether an image shows it: 1, -1, or 0 if it is difficult.
        # Other tools write names of files.
        match = re.fullmatch(r"(.+?)(\s+(1|0|-1)|\.(jpe?g|png|bmp|tiff?|xml))", line, re.IGNORECASE)
        if match and not _annotation(folder, line).exists():
            flagged, line = [str(file)], match[1]
        ids.append(line)
    if not ids:
        raise InputError(f"{file} lists no image")
    return list(dict.fromkeys(ids)), faults_of("odd list", flagged)


def voc_records(
    folder: str, split: str, classes: Sequence[str], *, first: int = 1, difficult: bool = False
) -> list[dict]:
    """
    The images of a split in Detectron2's format; pixels count from ``first``. Difficult objects are
    regions to ignore, unless ``difficult``. InputError names a file that cannot be read.
    """
    images, records = Path(folder, "JPEGImages"), []
    found = {file.stem: file for file in images.glob("[!.]*") if file.suffix.lower() != ".xml"}
    for image_id in image_ids(folder, split)[0]:
        annotation, file = read_annotation(folder, image_id), images / f"{image_id}.jpg"
        file = file if file.exists() else found.get(image_id, file)
        size = annotation.size
        sides = dict(zip(("width", "height"), size)) if size else size_of_file(file)
        annotations = [
            {
                "bbox": [o.box[0] - first, o.box[1] - first, *o.box[2:]],
                "bbox_mode": BoxMode.XYXY_ABS,
                "category_id": classes.index(o.name),
                "iscrowd": int(o.difficult and not difficult),
            }
            for o in annotation.objects
        ]
        record = {"file_name": str(file), "image_id": image_id, **sides}
        records.append({**record, "annotations": annotations})
    return records


def voc_faults(folder: str, split: str, first: int, difficult: bool) -> list[Fault]:
    """What is wrong with the annotations of a split, or odd."""
    (ids, found), pairs, broken = image_ids(folder, split), [], []
    for image_id in ids:
        try:
            pairs += [(image_id, o) for o in read_annotation(folder, image_id).objects]
        except InputError as e:
            broken.append(str(e))
    found += faults_of("bad annotations", broken)
    if not difficult:
        found += faults_of("difficult", (f"{o.name} of {i}" for i, o in pairs if o.difficult))
    if first:
        odd = (i for i, o in pairs if min(o.box[:2]) == 0 or any(x % 1 for x in o.box))
        found += faults_of("from zero", dict.fromkeys(odd))
    return found
