"""
Data sets that are named by their paths, so that training on your own data takes no code::

    coco:ANNOTATIONS.json:IMAGE_FOLDER    COCO format
    voc:FOLDER:SPLIT                      Pascal VOC format; FOLDER has Annotations/, JPEGImages/
                                          and ImageSets/Main/SPLIT.txt
    voc0:FOLDER:SPLIT                     the same, from a tool that counts pixels from 0
    voc:FOLDER:SPLIT:difficult            the same, where difficult objects count as objects
    images:FOLDER                         images without objects

Registered, such a name works wherever Detectron2 takes the name of a data set. Only DATASETS.TEST
takes no images without objects, because there is nothing to evaluate on.
"""

import functools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from ..errors import InputError
from ..files import must_exist
from .coco import class_numbers, coco_faults, coco_records, read_coco
from .keypoint_names import keypoint_metadata
from .rules import Fault, stop_at_first
from .voc import image_ids, voc_classes, voc_faults, voc_records

# Control characters, line ends, marks of text direction, and lone surrogates
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

# How the names of images without objects begin
NEGATIVES = "images:"
FORMS = "coco:ANNOTATIONS.json:IMAGE_FOLDER or voc:FOLDER:SPLIT"
_VOC = ("voc", "voc0")


def register_datasets(names: Sequence[str], classes: Sequence[str] = ()) -> list[str]:
    """
    Register data sets that belong together, such as training and test, if their names have a form
    above and are new. VOC data that may lack classes, such as a test set alone, needs ``classes``,
    all names in the order of their ids; by default they are those in its annotations. Returns the
    classes in the order of their ids in the model, or an empty list if no name has a form above.
    InputError names the file or data set and what is expected.
    """
    check_class_names(classes, "the classes that were given")
    if twice := [name for i, name in enumerate(classes) if name in classes[:i]]:
        raise InputError(f"--classes has {twice[0]!r} more than once")
    for name in names:
        if name.startswith(NEGATIVES) and name not in DatasetCatalog.list():
            _register_negatives(name)
    own = [name for name in names if is_own(name)]
    places = {name: _split(name) for name in own}
    # A VOC data set does not list its classes. To find the same ones in training and test, all
    # annotations of all its folders are read, whatever the split.
    voc_folders = sorted({place[0] for kind, *place in places.values() if kind in _VOC})
    found_in_voc = sorted(set().union(*map(voc_classes, voc_folders)))
    check_class_names(found_in_voc, ", ".join(voc_folders))
    if classes and (unknown := set(found_in_voc) - set(classes)):
        raise InputError(
            f"{', '.join(voc_folders)}: annotations name {sorted(unknown)}, which is not among the "
            f"classes that were given, {list(classes)}"
        )
    voc_names, shared = list(classes) or found_in_voc, []
    for name, (kind, *place) in places.items():
        found = voc_names if kind in _VOC else _coco_classes(*place)
        if shared and found != shared:
            raise InputError(
                f"Data sets must share their classes: {own[0]} has {shared}, {name} has {found}"
            )
        shared = found
        if name not in DatasetCatalog.list():
            (_register_voc if kind in _VOC else _register_coco)(name, shared, kind, *place)
    return shared


def is_own(name: str) -> bool:
    """Whether it names annotations by their path."""
    return name.startswith(("coco:", "voc:", "voc0:"))


def file_faults(name: str) -> list[Fault]:
    """What is wrong with the annotations of such data. One fault may hide others."""
    kind, *place = _split(name)
    if kind == "coco":
        return list(coco_faults(read_coco(place[0])))
    return voc_faults(*place[:2], first=int(kind == "voc"), difficult=len(place) > 2)


def name_of_negatives(text: str) -> str:
    """The name of a data set of images without objects, which may be given by their folder."""
    is_name = text in DatasetCatalog.list() or is_own(text) or text.startswith(NEGATIVES)
    return text if is_name else NEGATIVES + text


def _register_coco(name: str, classes: list[str], kind: str, file: str, folder: str) -> None:
    DatasetCatalog.register(name, lambda: coco_records(read_coco(file), folder))
    coco = read_coco(file)
    MetadataCatalog.get(name).set(
        json_file=file,
        image_root=folder,
        evaluator_type="coco",
        thing_classes=classes,
        thing_dataset_id_to_contiguous_id=class_numbers(coco),
        **keypoint_metadata(coco.categories),
    )


def _register_voc(name: str, classes: list[str], kind: str, folder: str, split: str, *how: str):
    options = {"first": int(kind == "voc"), "difficult": bool(how)}
    image_ids(folder, split)
    records = functools.partial(voc_records, folder, split, classes, **options)
    DatasetCatalog.register(name, records)
    MetadataCatalog.get(name).set(
        dirname=folder, split=split, year=2012, evaluator_type="pascal_voc", thing_classes=classes
    )


def _register_negatives(name: str) -> None:
    folder = Path(name[len(NEGATIVES) :])
    must_exist(folder, "a folder of images without objects")
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; it should be one of images without objects")
    kinds = Image.registered_extensions()
    files = sorted(file for file in folder.glob("[!.]*") if file.suffix.lower() in kinds)
    if not files:
        raise InputError(f"{folder} has no images; it should be a folder of images without objects")
    # without their sizes, which Detectron2 finds when it opens them
    records = [{"file_name": str(f), "image_id": f.name, "annotations": []} for f in files]
    DatasetCatalog.register(name, lambda: records)


def _split(name: str) -> list[str]:
    parts = name.split(":")
    difficult = parts[3:] == ["difficult"] and parts[0] in _VOC
    if not all(parts) or not (len(parts) == 3 or difficult):
        raise InputError(f"Data set {name!r} is not of the form {FORMS}")
    return parts


def _coco_classes(file: str, image_folder: str) -> list[str]:
    """The names of the classes, in the order of their ids, as Detectron2 numbers them."""
    coco = read_coco(file)
    must_exist(image_folder, "the folder of images")
    stop_at_first(file, coco_faults(coco))
    names = {category.id: category.name for category in coco.categories}
    classes = [names[i] for i in class_numbers(coco)]
    check_class_names(classes, file)
    return classes


def must_be_registered(name: str) -> None:
    """Raises InputError unless Detectron2 knows the data set."""
    if name not in DatasetCatalog.list():
        raise InputError(
            f"Data set {name!r} is not registered. Name it {FORMS}, or name the module that "
            "registers it with --import"
        )


def check_class_names(names: Iterable[object], where: str | Path) -> None:
    """Raises InputError for a name that is not text, or is not safe to print."""
    for name in names:
        if not isinstance(name, str) or _UNPRINTABLE.search(name):
            raise InputError(f"{where}: a class is called {name!r}; it should be printable text")
