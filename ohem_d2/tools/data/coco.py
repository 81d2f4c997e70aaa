"""Find what keeps annotations in COCO format from being loaded or evaluated on."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError, in_words
from ..files import must_be_file
from .faults import Fault, faults_if_any, shortly

_KEYS = {
    "categories": ("id", "name"),
    "images": ("id", "file_name", "width", "height"),
    "annotations": ("id", "image_id", "category_id", "bbox"),
}
# What the evaluation, which comes after the training, reads of annotations as well
EVALUATED = ("area", "iscrowd")
EVALUATED_KEYPOINTS = (*EVALUATED, "num_keypoints")


def read_coco(file: str | Path) -> Any:
    """The file's content. Raises InputError, which names it."""
    must_be_file(file, "the annotations in COCO format")
    try:
        return json.loads(Path(file).read_text())
    except (OSError, RecursionError, ValueError) as e:
        raise InputError(f"{file} is not in COCO format: {in_words(e)}") from e


def check_coco(file: str | Path, data: Any, evaluated: Sequence[str] = ()) -> list[Fault]:
    """
    Raises InputError, which names the file and what in its content, ``data``, stops Detectron2;
    returns what is left out. ``evaluated`` are further keys of its annotations, for the evaluation.
    """
    faults = coco_faults(data, evaluated)
    for fault in faults:
        if fault.stops:
            raise InputError(f"{file} is not in COCO format: {fault}")
    return faults


def coco_faults(data: Any, evaluated: Sequence[str] = ()) -> list[Fault]:
    """Find all faults, as far as others do not hide them; see :func:`check_coco`."""
    if not isinstance(data, dict):
        return [Fault("value in the place of a dict", [type(data).__name__])]
    faults = _faults_of_parts(data, evaluated) or _faults_of_ids(data)
    return faults or _faults_of_annotations(data, evaluated)


def _faults_of_parts(data: dict, evaluated: Sequence[str]) -> list[Fault]:
    faults = []
    for part, keys in _KEYS.items():
        # Files of images without labels, as of COCO's test set, lack the annotations alone.
        rows = data.get(part, [] if part == "annotations" else None)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            faults.append(Fault("part that should be a list of dicts", [repr(part)]))
            continue
        if not rows and part == "categories":
            faults.append(Fault("list that should not be empty", [repr(part)]))
        for key in (*keys, *(evaluated if part == "annotations" else ())):
            lacking = (_named(data, row) for row in rows if key not in row)
            faults += faults_if_any(f"of the {part} without {key!r}", lacking)
    return faults


def _faults_of_ids(data: dict) -> list[Fault]:
    files = ((image["id"], image["file_name"]) for image in data["images"])
    nameless = (f"{name!r} of image {i!r}" for i, name in files if not isinstance(name, str))
    faults = faults_if_any("file_name that are no text", nameless)
    for part in ("categories", "images"):
        ids = [row["id"] for row in data[part]]
        kinds = Counter(map(type, ids))
        if set(kinds) <= {int} or set(kinds) == {str}:
            twice = (f"id {i!r}" for i, times in Counter(ids).items() if times > 1)
            faults += faults_if_any(f"ids that several of the {part} have", twice)
        else:
            strange = (shortly(i) for i in ids if type(i) is not int)
            faults += faults_if_any(f"ids of {part} that are no whole numbers", strange)
    return faults


def _faults_of_annotations(data: dict, evaluated: Sequence[str]) -> list[Fault]:
    files = {image["id"]: image["file_name"] for image in data["images"]}
    categories = {category["id"] for category in data["categories"]}
    orphans, foreign, shapeless, strange = [], [], [], []
    for a in data.get("annotations", ()):
        if not _has(files, a["image_id"]):
            orphans.append(f"annotation {a['id']!r} of image {a['image_id']!r}")
            continue
        name = f"annotation {a['id']!r} of {files[a['image_id']]}"
        if not _has(categories, a["category_id"]):
            foreign.append(f"{a['category_id']!r}, {name}")
        if not isinstance(a["bbox"], list) or not a["bbox"]:
            shapeless.append(f"{shortly(a['bbox'])}, {name}")
        if not all(isinstance(a[key], (int, float)) for key in evaluated):
            strange.append(name)
    return [
        *faults_if_any("category ids that are not among the categories", foreign),
        *faults_if_any("boxes that are no list [x, y, width, height]", shapeless),
        *faults_if_any(f"annotations whose {' or '.join(evaluated)} is no number", strange),
        *faults_if_any("annotations of images that are not among the images", orphans, stops=False),
    ]


def _named(data: dict, row: dict) -> str:
    """A row of a part, with the file of an annotation's image."""
    images = (i for i in data["images"] if "image_id" in row and i.get("id") == row["image_id"])
    files = (f" of {image.get('file_name')}" for image in images)
    return shortly(row) + "".join(files)


def _has(known: Iterable, value: Any) -> bool:
    try:
        return value in known
    except TypeError:  # a list, say
        return False
