"""
Data sets that are named by where they lie, so that training on one's own data takes no code:

    coco:ANNOTATIONS.json:IMAGE_FOLDER    COCO format
    voc:FOLDER:SPLIT                      Pascal VOC format; FOLDER has Annotations/, JPEGImages/
                                          and ImageSets/Main/SPLIT.txt

Such names go wherever Detectron2 takes the name of a data set, once they have been registered.
"""

import json
import os
from collections.abc import Sequence
from xml.etree import ElementTree

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances, register_pascal_voc


def register_datasets(names: Sequence[str]) -> list[str]:
    """
    Register those of the names that are of a form above; others and known ones are left alone.

    Args:
        names: of data sets that belong together, as in training and test.

    Returns:
        the names of the classes, in the order of their ids in the model; an empty list if no name
        is of a form above.

    Raises:
        FileNotFoundError, ValueError: names the file or data set and what is expected.
    """
    own = [name for name in names if name.startswith(("coco:", "voc:"))]
    split = [_split(name) for name in own]
    # A VOC data set does not list its classes, so training and test have to be asked together.
    voc_classes = sorted(
        {c for kind, *place in split if kind == "voc" for c in _voc_classes(*place)}
    )
    classes: list[str] = []
    for name, (kind, *place) in zip(own, split):
        found = voc_classes if kind == "voc" else _coco_classes(*place)
        if classes and found != classes:
            raise ValueError(
                f"Data sets must share their classes: {own[0]} has {classes}, {name} has {found}"
            )
        classes = found
        if name not in DatasetCatalog.list():
            if kind == "coco":
                register_coco_instances(name, {}, *place)
            else:
                register_pascal_voc(name, *place, year=2012, class_names=found)
                MetadataCatalog.get(name).evaluator_type = "pascal_voc"
    return classes


def _split(name: str) -> list[str]:
    parts = name.split(":")
    if len(parts) != 3 or not all(parts):
        raise ValueError(
            f"Data set {name!r} is not of the form coco:ANNOTATIONS.json:IMAGE_FOLDER or "
            "voc:FOLDER:SPLIT"
        )
    return parts


def _coco_classes(json_file: str, image_folder: str) -> list[str]:
    _must_exist(json_file, "the annotations in COCO format")
    _must_exist(image_folder, "the folder of images")
    with open(json_file) as file:
        try:
            categories = json.load(file)["categories"]
            # Detectron2 numbers the classes in the order of their category ids.
            return [c["name"] for c in sorted(categories, key=lambda c: c["id"])]
        except (ValueError, KeyError, TypeError) as e:
            raise ValueError(f"{json_file} is not in COCO format: {e!r}") from e


def _voc_classes(folder: str, split: str) -> set[str]:
    image_set = os.path.join(folder, "ImageSets", "Main", f"{split}.txt")
    _must_exist(image_set, "the list of images in Pascal VOC format")
    classes: set[str] = set()
    with open(image_set) as file:
        for image_id in file.read().split():
            annotation = os.path.join(folder, "Annotations", f"{image_id}.xml")
            _must_exist(annotation, f"the annotation of {image_id}, listed in {image_set}")
            try:
                root = ElementTree.parse(annotation).getroot()
            except ElementTree.ParseError as e:
                raise ValueError(f"{annotation} is not XML: {e}") from e
            classes.update(obj.findtext("name", "") for obj in root.iter("object"))
    return classes


def _must_exist(path: str, what: str) -> None:
    if not os.path.exists(path):
        raise FileNotFoundError(f"{path} does not exist; it should be {what}")
