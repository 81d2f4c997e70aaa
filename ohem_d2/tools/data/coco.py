"""Annotations in COCO format: read with a schema, and checked by rules."""

import functools
import json
import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from detectron2.structures import BoxMode
from PIL import Image as ImageFile

from ..errors import InputError, in_words
from ..files import must_be_file
from .rules import Fault, faults_of

Id = int | float | str


class Category(msgspec.Struct):
    id: Id
    name: str
    keypoints: Any = None
    skeleton: Any = None


class Image(msgspec.Struct):
    id: Id
    file_name: str
    width: int | float | None = None
    height: int | float | None = None


class Annotation(msgspec.Struct):
    """Fields that only an evaluation reads may be missing or wrong."""

    image_id: Id
    category_id: Id
    bbox: Annotated[list[float], msgspec.Meta(min_length=4, max_length=4)]  # x, y, width, height
    segmentation: list | dict | None = None
    keypoints: list[float] | None = None
    iscrowd: int | float | bool = 0
    id: Any = None
    area: Any = None
    ignore: Any = 0
    num_keypoints: Any = None


class CocoFile(msgspec.Struct):
    """The content of a file."""

    images: list[Image]
    categories: Annotated[list[Category], msgspec.Meta(min_length=1)]
    annotations: list[Annotation] | msgspec.UnsetType = msgspec.UNSET  # unset: no labels


def read_coco(file: str | Path) -> CocoFile:
    """The file's content, cached, so do not change it. InputError names the file and the place."""
    must_be_file(file, "the annotations in COCO format")
    state = os.stat(file)
    return _read(str(file), state.st_mtime_ns, state.st_size)


@functools.lru_cache(maxsize=4)
def _read(file: str, *version: int) -> CocoFile:
    try:
        text = Path(file).read_bytes()
        try:
            return msgspec.json.decode(text, type=CocoFile)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:  # Python writes NaN and Infinity, which are not JSON
            return msgspec.convert(json.loads(text), CocoFile)
    except (OSError, RecursionError, ValueError) as e:
        raise InputError(f"{file} is not in COCO format: {in_words(e)}") from e


def coco_faults(coco: CocoFile) -> Iterator[Fault]:
    """What stops Detectron2, is left out, or is odd."""
    files = {image.id: image.file_name for image in coco.images}
    unsized = (image.file_name for image in coco.images if not (image.width and image.height))
    yield from faults_of("no size", unsized)
    for part in ("categories", "images"):
        ids = Counter(row.id for row in getattr(coco, part))
        yield from faults_of("id twice", (f"id {i!r}" for i, n in ids.items() if n > 1), part=part)
        if len({isinstance(i, str) for i in ids}) > 1:
            texts = (repr(i) for i in ids if isinstance(i, str))
            yield from faults_of("id kinds", texts, part=part)
    names = Counter(category.name for category in coco.categories)
    yield from faults_of("same class", (repr(name) for name, n in names.items() if n > 1))
    known, found = {category.id for category in coco.categories}, defaultdict(list)
    for i, a in enumerate(coco.annotations or ()):
        if a.image_id not in files:
            found["unknown image"].append(f"annotations[{i}] of image {a.image_id!r}")
        if a.category_id not in known:
            found["unknown category"].append(f"{a.category_id!r}, {_place(i, a, files)}")
        if is_flat(a.segmentation):
            found["flat polygon"].append(_place(i, a, files))
        if _is_number(a.area) and a.area == 0 < a.bbox[2] * a.bbox[3]:
            found["no extent"].append(f"{_place(i, a, files)}: {a.bbox}")
        if a.ignore not in (0, None) and not a.iscrowd:
            found["ignored"].append(_place(i, a, files))
    for rule, where in found.items():
        yield from faults_of(rule, where)


def _place(i: int, annotation: Annotation, files: dict[Id, str]) -> str:
    return f"annotations[{i}] of {files.get(annotation.image_id)}"


def coco_records(coco: CocoFile, image_folder: str) -> list[dict]:
    """
    All images with their annotations, in Detectron2's format and the order of its own reader. That
    one drops objects whose polygons have two points; here the box stays. Numbers are floats.
    """
    classes = class_numbers(coco)
    of_image = defaultdict(list)
    for a in coco.annotations or ():
        annotation = {
            "bbox": a.bbox,
            "bbox_mode": BoxMode.XYWH_ABS,
            "category_id": classes[a.category_id],
            "iscrowd": a.iscrowd,
        }
        if a.segmentation:
            flat = is_flat(a.segmentation)
            annotation["segmentation"] = [a.segmentation] if flat else a.segmentation
        if a.keypoints:  # from COCO's pixel indices to Detectron2's coordinates: pixel centers
            moved = (v if i % 3 == 2 else v + 0.5 for i, v in enumerate(a.keypoints))
            annotation["keypoints"] = list(moved)
        of_image[a.image_id].append(annotation)
    return [
        {
            "file_name": os.path.join(image_folder, image.file_name),
            **_size_of(image, image_folder),
            "image_id": image.id,
            "annotations": of_image[image.id],
        }
        for image in sorted(coco.images, key=lambda image: image.id)
    ]


def _size_of(image: Image, folder: str) -> dict[str, float]:
    if image.width and image.height:
        return {"height": image.height, "width": image.width}
    return size_of_file(os.path.join(folder, image.file_name))


def size_of_file(image: str | Path) -> dict[str, float]:
    """Width and height, as in a record. Empty for what is not an image: others report that."""
    try:
        with ImageFile.open(image) as opened:
            return {"height": opened.height, "width": opened.width}
    except Exception:  # Pillow raises many kinds
        return {}


def class_numbers(coco: CocoFile) -> dict[Id, int]:
    """The number of each class in the model, in the order of their ids, as Detectron2 has it."""
    return {i: n for n, i in enumerate(sorted(category.id for category in coco.categories))}


def mended_for_evaluation(
    file: str | Path, masks: bool = False, image_folder: str = ""
) -> tuple[dict | None, list[Fault]]:
    """
    The content of the file for pycocotools, with ``masks`` if a model has them: without what is
    left out, and mended where pycocotools would stop or be wrong. None if that changes nothing. The
    file itself is not changed. Also returns what was mended.
    """
    coco, text = read_coco(file), Path(file).read_bytes()
    content, given = json.loads(text), coco.annotations or ()
    files = {image.id: image.file_name for image in coco.images}
    sizes = {image.id: _size_of(image, image_folder) for image in coco.images}
    ids = Counter(a.id for a in given if _is_id(a.id))
    own_id = [_is_id(a.id) and ids[a.id] == 1 for a in given]
    anew = not all(own_id)
    wrong, rows = defaultdict(list), []
    for i, (a, row) in enumerate(zip(given, content.get("annotations", ()))):
        (x, y, width, height), box = a.bbox, a.bbox[2] * a.bbox[3]
        mask = sound_mask(a.segmentation) if masks else a.segmentation
        if masks and a.iscrowd and not mask:
            mask = [[x, y, x + width, y, x + width, y + height, x, y + height]]
        if not _is_inside(a.bbox, sizes.get(a.image_id)) or masks and not mask:
            continue
        where = _place(i, a, files)
        row = {**row, "segmentation": mask} if masks else {**row}
        if anew:
            row["id"] = i + 1
        if not own_id[i]:
            wrong["bad ids"].append(f"{where}: {a.id!r}")
        # The area is the object's, so not above that of the box, which may be rounded
        if not (_is_number(a.area) and 0 < a.area <= 1.1 * box + 2):
            row["area"] = box
            wrong["bad area"].append(f"{where}: {a.area!r}")
        elif not a.segmentation and a.area < 0.9 * box - 2:
            wrong["other area"].append(f"{where}: {a.area!r}, and {box:g} of the box")
        if "iscrowd" not in row:
            row["iscrowd"] = 0
            wrong["no iscrowd"].append(where)
        if a.keypoints and not _is_number(a.num_keypoints):
            row["num_keypoints"] = sum(v > 0 for v in a.keypoints[2::3])
            wrong["no num keypoints"].append(where)
        rows.append(row)
    found = [fault for rule in wrong for fault in faults_of(rule, wrong[rule])]
    # pycocotools cannot read a byte order mark before the content, which Windows writes.
    changed = {"images": [{**row, **sizes[row["id"]]} for row in content["images"]]}
    if "annotations" in content or rows:
        changed["annotations"] = rows
    same = text[:1] == b"{" and all(content[k] == v for k, v in changed.items())
    return None if same else {**content, **changed}, found


def sound_mask(given: Any) -> Any:
    """RLE as it is, or those polygons that have three points or more; [] if there are none."""
    if isinstance(given, dict):
        return given
    lists = (list, tuple, np.ndarray)
    parts = [given] if is_flat(given) else given if isinstance(given, lists) else ()
    return [p for p in parts if isinstance(p, lists) and len(p) >= 6 and len(p) % 2 == 0]


def is_flat(segmentation: Any) -> bool:
    """Whether it is a single polygon, instead of COCO's list of polygons."""
    return isinstance(segmentation, list) and bool(segmentation) and _is_number(segmentation[0])


def _is_inside(box: Sequence[float], image: dict[str, float] | None) -> bool:
    """Whether a finite XYWH box has an area on the image. False without an image."""
    (x, y, width, height), size = box, image or {}
    inside = -width < x < size.get("width", math.inf) and -height < y < size.get("height", math.inf)
    return image is not None and all(map(math.isfinite, box)) and width > 0 < height and inside


def _is_id(value: Any) -> bool:
    """Whether pycocotools can use it as an id: a whole number above 0 (0 means no match)."""
    return _is_number(value) and 0 < value < 2**53 and value % 1 == 0


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
