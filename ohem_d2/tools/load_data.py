"""Load the images with ground truth that a command line names."""

import functools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import build_augmentation

from .data.datasets import check_class_names, register_datasets
from .data.mapper import TrainingMapper, map_record
from .data.records import check_records, records_of, with_file
from .errors import InputError, input_errors

logger = logging.getLogger(__name__)


def load_records(cfg: CfgNode, names: Sequence[str], classes: Sequence[str] = ()) -> list[dict]:
    """
    Load data sets with ground truth, and with proposals if MODEL.LOAD_PROPOSALS. DATASETS.TRAIN is
    limited to the images that a training takes. InputError names what is wrong.
    """
    own = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    # Data sets of the configuration share their classes, as in the training.
    register_datasets([*(own if set(names) <= set(own) else ()), *names], classes)
    records = []
    for name in names:
        only_test = name in cfg.DATASETS.TEST and name not in cfg.DATASETS.TRAIN
        found = records_of(cfg, name, "TEST" if only_test else "TRAIN")
        _check_classes(cfg, name, MetadataCatalog.get(name).get("thing_classes"))
        found, faults, _ = check_records(cfg, name, found, training=True)
        for fault in faults:
            logger.warning(f"{with_file(name)}: {fault}")
        records += found
    for record in records:
        if "annotations" not in record:
            raise InputError(f"{record['file_name']} has no annotations, and a loss needs labels")
    with_objects = [r for r in records if not all(a.get("iscrowd", 0) for a in r["annotations"])]
    if not with_objects:  # files without labels, such as COCO's test set, are accepted too
        how = "An image that shows none takes python -m ohem_d2 inspect --image FILE --no-objects"
        none = "has no annotated object, and a loss needs labels"
        raise InputError(f"Data set {', '.join(names)} {none}. {how}")
    trained_on = set(names) <= set(cfg.DATASETS.TRAIN)
    return with_objects if trained_on and cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS else records


def load_image_record(
    cfg: CfgNode, image: Path, annotations: Path | None
) -> tuple[dict, Sequence[str] | None]:
    """
    Load one image with its ground truth, in Detectron2's format, and the names of the classes if
    they are known. ``annotations`` are in COCO format, None if the image shows no object.
    """
    if cfg.MODEL.LOAD_PROPOSALS:
        of_data = "proposals are given for data sets: use --dataset"
        raise InputError(f"MODEL.LOAD_PROPOSALS is True, and {of_data}")
    if annotations is None:
        return {"file_name": str(image), "image_id": image.stem, "annotations": []}, None
    name = f"coco:{annotations}:{image.parent}"
    classes = register_datasets([name])
    _check_classes(cfg, name, classes)
    with input_errors(str(annotations)):
        records = DatasetCatalog.get(name)
    found = [r for r in records if Path(r["file_name"]).name == image.name]
    if len(found) != 1:
        raise InputError(f"{annotations} has {len(found)} images called {image.name}; it needs one")
    return {**found[0], "file_name": str(image)}, classes


def image_mapper(cfg: CfgNode) -> Callable[[dict], dict]:
    """A function from a record to a model's inputs: resized as in a test, with ground truth."""
    augmentations = build_augmentation(cfg, is_train=False)
    mapper = TrainingMapper(cfg, is_train=True, augmentations=augmentations)
    return functools.partial(map_record, mapper)


def spread(records: Sequence[dict], num: int) -> list[dict]:
    """At most ``num`` of the records, spread evenly over the data set."""
    places = np.linspace(0, len(records) - 1, min(num, len(records))).round().astype(int)
    return [records[i] for i in places]


def _check_classes(cfg: CfgNode, name: str, classes: Sequence[str] | None) -> None:
    check_class_names(classes or (), name)
    expected = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    if classes is not None and len(classes) != expected:
        found = f"{name} has {len(classes)} classes: {', '.join(classes[:10])}"
        raise InputError(
            f"MODEL.ROI_HEADS.NUM_CLASSES = {expected}, but {found}. Use the configuration that "
            "the model was trained with, e.g. OUTPUT_DIR/config.yaml, or add MODEL.ROI_HEADS."
            f"NUM_CLASSES {len(classes)}; VOC data that lacks some of the classes takes --classes"
        )
