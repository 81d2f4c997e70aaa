"""
Data sets that are named by where they lie, so that training on one's own data takes no code::

    coco:ANNOTATIONS.json:IMAGE_FOLDER    COCO format
    voc:FOLDER:SPLIT                      Pascal VOC format; FOLDER has Annotations/, JPEGImages/
                                          and ImageSets/Main/SPLIT.txt
    images:FOLDER                         images without objects

Such names go wherever Detectron2 takes the name of a data set, once they have been registered. Only
DATASETS.TEST takes no images without objects: there is nothing to evaluate on.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances, register_pascal_voc
from PIL import Image

from ..errors import InputError
from ..files import must_be_file, must_exist
from .coco import check_coco, read_coco
from .keypoint_names import keypoint_metadata
from .voc import read_voc

# What a terminal obeys, what ends a line or turns its direction, and halves of surrogate pairs
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

# How the names of images without objects begin
NEGATIVES = "images:"
FORMS = "coco:ANNOTATIONS.json:IMAGE_FOLDER or voc:FOLDER:SPLIT"


def register_datasets(names: Sequence[str], classes: Sequence[str] = ()) -> list[str]:
    """
    Register data sets that belong together, as in training and test: those whose names are of a
    form above; others and known ones are left alone. VOC data that may not have all classes, as a
    test set alone, takes their names, ``classes``, in the order of their ids; else those are taken
    that its annotations name. Returns the names of the classes in the order of their ids in the
    model, or an empty list if no name is of a form above. InputError names the file or data set and
    what is expected.
    """
    check_class_names(classes, "the classes that were given")
    if twice := [name for i, name in enumerate(classes) if name in classes[:i]]:
        raise InputError(f"--classes has {twice[0]!r} more than once")
    for name in names:
        if name.startswith(NEGATIVES) and name not in DatasetCatalog.list():
            _register_negatives(name)
    own = [name for name in names if name.startswith(("coco:", "voc:"))]
    split = [_split(name) for name in own]
    # A VOC data set does not list its classes. To find the same ones in training and test, all
    # annotations of all its folders are asked, whatever the split.
    voc_folders = {place[0] for kind, *place in split if kind == "voc"}
    voc_classes = sorted(set().union(*(_voc_classes(folder) for folder in voc_folders)))
    if classes and voc_folders:
        if unknown := set(voc_classes) - set(classes):
            raise InputError(
                f"{', '.join(sorted(voc_folders))}: annotations name {sorted(unknown)}, which is "
                f"not among the classes that were given, {list(classes)}"
            )
        voc_classes = list(classes)
    classes = []
    for name, (kind, *place) in zip(own, split):
        found, metadata = (voc_classes, {}) if kind == "voc" else _coco_classes(*place)
        if classes and found != classes:
            raise InputError(
                f"Data sets must share their classes: {own[0]} has {classes}, {name} has {found}"
            )
        classes = found
        if name not in DatasetCatalog.list():
            if kind == "coco":
                register_coco_instances(name, metadata, *place)
            else:
                _check_voc_split(*place)
                register_pascal_voc(name, *place, year=2012, class_names=found)
                MetadataCatalog.get(name).evaluator_type = "pascal_voc"
    return classes


def name_of_negatives(text: str) -> str:
    """The name of a data set of images without objects, which may be given by their folder."""
    is_name = text in DatasetCatalog.list() or text.startswith(("coco:", "voc:", NEGATIVES))
    return text if is_name else NEGATIVES + text


def _register_negatives(name: str) -> None:
    folder = Path(name[len(NEGATIVES) :])
    must_exist(folder, "a folder of images without objects")
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; it should be one of images without objects")
    kinds = Image.registered_extensions()
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in kinds)
    if not files:
        raise InputError(f"{folder} has no images; it should be a folder of images without objects")
    # without their sizes, which Detectron2 finds when it opens them
    records = [{"file_name": str(f), "image_id": f.name, "annotations": []} for f in files]
    DatasetCatalog.register(name, lambda: records)


def _split(name: str) -> list[str]:
    parts = name.split(":")
    if len(parts) != 3 or not all(parts):
        raise InputError(f"Data set {name!r} is not of the form {FORMS}")
    return parts


def _coco_classes(json_file: str, image_folder: str) -> tuple[list[str], dict]:
    """The names of the classes, and Detectron2's metadata of their keypoints."""
    data = read_coco(json_file)
    must_exist(image_folder, "the folder of images")
    check_coco(json_file, data)
    # Detectron2 numbers the classes in the order of their category ids.
    classes = [c["name"] for c in sorted(data["categories"], key=lambda c: c["id"])]
    check_class_names(classes, json_file)
    return classes, keypoint_metadata(data["categories"])


def must_be_registered(name: str) -> None:
    """Raises InputError unless Detectron2 knows the data set."""
    if name not in DatasetCatalog.list():
        raise InputError(
            f"Data set {name!r} is not registered. Name it {FORMS}, or name the module that "
            "registers it with --import"
        )


def _voc_classes(folder: str) -> set[str]:
    folder = Path(folder) / "Annotations"
    must_exist(folder, "the folder of annotations in Pascal VOC format")
    names = set()
    for file in folder.glob("*.xml"):
        found = {found.name for found in read_voc(file, strict=True)}
        check_class_names(found, file)
        names |= found
    return names


def check_class_names(names: Iterable[object], where: str | Path) -> None:
    """Raises InputError for a name that is no text, or cannot be printed without harm."""
    for name in names:
        if not isinstance(name, str) or _UNPRINTABLE.search(name):
            raise InputError(f"{where}: a class is called {name!r}; it should be printable text")


def _check_voc_split(folder: str, split: str) -> None:
    image_set = Path(folder) / "ImageSets" / "Main" / f"{split}.txt"
    must_be_file(image_set, "the list of images in Pascal VOC format")
    image_ids = image_set.read_text(errors="replace").split()
    if len(image_ids) < 2:
        raise InputError(f"{image_set} lists {len(image_ids)} image; Detectron2 reads two or more")
    for image_id in image_ids:
        file = Path(folder) / "Annotations" / f"{image_id}.xml"
        must_exist(file, f"the annotation of {image_id}, listed in {image_set}")
