"""From what a command line names, to a model that mines and images with ground truth."""

import argparse
import contextlib
import importlib
import logging
import os
import pickle
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch
from detectron2 import model_zoo
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.data.detection_utils import build_augmentation
from detectron2.modeling import ROI_HEADS_REGISTRY, build_model
from detectron2.modeling.roi_heads import RROIHeads
from detectron2.structures import BoxMode
from torch import nn
from yaml import YAMLError

from ..config import add_ohem_config
from ..data.crowds import CrowdDatasetMapper
from ..data.datasets import VOC_SIDES, must_exist, register_datasets
from ..heads.standard import OHEMMixin
from ..monitor.scalars import LOGGER_NAME

logger = logging.getLogger(LOGGER_NAME)

_COUNTERPARTS = {
    "StandardROIHeads": "OHEMROIHeads",
    "Res5ROIHeads": "OHEMRes5ROIHeads",
    "CascadeROIHeads": "OHEMCascadeROIHeads",
}

_OWN_KEY = (
    "If a module of your own adds this key, name it with --import; its function "
    "add_..._config(cfg) is then called"
)

# What we, Detectron2 and PyTorch raise for a configuration, weights or images that are wrong
INPUT_ERRORS = (
    *(AssertionError, EOFError, FloatingPointError, ImportError, IndexError, KeyError, OSError),
    *(RuntimeError, TypeError, ValueError, YAMLError, pickle.UnpicklingError),
)

# Of these the text is enough. With the others it is told what they are: their texts are often
# short, and they may come from an error in a model of one's own.
_PLAIN_ERRORS = (ImportError, NotImplementedError, OSError, ValueError, YAMLError)


def message(error: Exception) -> str:
    """What an error says, in words for the one who gave the input."""
    if isinstance(error, KeyError) and error.args:
        said = str(error.args[0])  # a sentence, or only the key that is not in a dict
        return said if " " in said else f"key {error.args[0]!r} is missing"
    return str(error) if isinstance(error, _PLAIN_ERRORS) else f"{type(error).__name__}: {error}"


@contextlib.contextmanager
def naming(what: str) -> Iterator[None]:
    """
    Within the context, errors about input are told with what they are about.

    Args:
        what: a file, say. The message begins with it.

    Raises:
        ValueError: in the place of any of ``INPUT_ERRORS``, which is its ``__cause__``.
    """
    try:
        yield
    except INPUT_ERRORS as e:
        raise ValueError(f"{what}: {message(e)}") from e


def at_least(least: int) -> Callable[[str], int]:
    """The type of an argument of a command that is a whole number, ``least`` or more."""

    def whole(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r}; allowed: a whole number >= {least}")
        return int(text)

    return whole


def add_model_arguments(parser: argparse.ArgumentParser, config_required: bool) -> None:
    """Arguments that the commands share."""
    parser.add_argument(
        "--config-file",
        required=config_required,
        metavar="FILE",
        help="configuration in YAML, as OUTPUT_DIR/config.yaml of a run, or a name in the model "
        "zoo; no LazyConfig",
    )
    parser.add_argument("--weights", default="", metavar="FILE", help="instead of MODEL.WEIGHTS")
    parser.add_argument(
        "--import",
        dest="modules",
        action="append",
        default=[],
        metavar="MODULE",
        help="import it first, as it registers parts of the model or data sets; its functions "
        "add_..._config(cfg) are called; may be repeated",
    )
    parser.add_argument(
        "--classes",
        nargs="+",
        default=(),
        metavar="NAME",
        help="of Pascal VOC data that may not have all of them, in the order of their ids",
    )
    parser.add_argument(
        "opts", nargs="*", metavar="KEY VALUE", help="overrides of the configuration"
    )


# ---- the model -------------------------------------------------------------------------------


def find_config_file(name: str) -> str:
    """
    Args:
        name: a file, or a name in Detectron2's model zoo.

    Returns:
        the file.

    Raises:
        FileNotFoundError: if it is neither.
    """
    if os.path.isfile(name):
        return name
    try:
        return model_zoo.get_config_file(name)
    except RuntimeError:
        raise FileNotFoundError(
            f"{name}: no such file, and no such name in the model zoo"
        ) from None


def load_cfg(
    config_file: str,
    *,
    weights: str = "",
    overrides: Sequence[str] = (),
    modules: Sequence[str] = (),
) -> CfgNode:
    """
    The configuration of a model to look into: heads that mine, no masks or keypoints, which mining
    does not depend on, and a device that there is.

    Args:
        config_file: a file in YAML, or a name in Detectron2's model zoo.
        weights: instead of MODEL.WEIGHTS.
        overrides: KEY, VALUE, KEY, VALUE...
        modules: to import first, as they register parts of the model or data sets. Functions of
            theirs that are called ``add_..._config`` are given the configuration to add keys to,
            as those of Detectron2's projects do.

    Raises:
        FileNotFoundError, ImportError, KeyError, ValueError: names what is wrong.
    """
    cfg = get_cfg()
    for name in modules:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as e:
            raise ImportError(f"--import {name}: {e}; is its folder in PYTHONPATH?") from e
        for function in vars(module):
            if re.fullmatch(r"add_\w*config", function):
                vars(module)[function](cfg)
    add_ohem_config(cfg)
    config_file = find_config_file(config_file)
    if len(overrides) % 2:
        raise ValueError(f"Overrides are KEY VALUE pairs; these are not: {' '.join(overrides)}")
    with naming(config_file):
        _merge_file(cfg, config_file)
    _merge_overrides(cfg, overrides)
    cfg.MODEL.WEIGHTS = weights or cfg.MODEL.WEIGHTS
    if "://" not in cfg.MODEL.WEIGHTS and cfg.MODEL.WEIGHTS:
        must_exist(cfg.MODEL.WEIGHTS, "MODEL.WEIGHTS, the checkpoint")
    heads = cfg.MODEL.ROI_HEADS
    if (counterpart := heads_that_mine(heads.NAME)) != heads.NAME:
        logger.info(
            f"{counterpart} takes the place of {heads.NAME}. It mines as many RoIs of an image as "
            f"MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = {heads.BATCH_SIZE_PER_IMAGE}; ohem_d2's "
            "configurations have 128"
        )
        heads.NAME = counterpart
    cfg.MODEL.MASK_ON = cfg.MODEL.KEYPOINT_ON = False
    cfg.VIS_PERIOD = 0
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    return cfg


def _merge_file(cfg: CfgNode, path: str) -> None:
    if path.endswith(".py") or "_target_:" in Path(path).read_text(errors="replace"):
        raise ValueError(
            "this is a LazyConfig, and the commands take configurations in YAML with Detectron2's "
            "keys (CfgNode). Name one of the same model, and its checkpoint with --weights"
        )
    try:
        cfg.merge_from_file(path)
    except KeyError as e:
        raise KeyError(f"{e.args[0]}. {_OWN_KEY}") from e
    except (AttributeError, TypeError) as e:
        raise ValueError("there are no lines KEY: VALUE, as a configuration in YAML has") from e


def _merge_overrides(cfg: CfgNode, overrides: Sequence[str]) -> None:
    # A misspelt key of OHEM comes as far as OHEMSettings, which says what it should be.
    for key in overrides[::2]:
        if key.startswith("MODEL.ROI_HEADS.OHEM."):
            cfg.MODEL.ROI_HEADS.OHEM.setdefault(key.rpartition(".")[2], None)
    try:
        cfg.merge_from_list(list(overrides))
    except AssertionError as e:
        raise KeyError(f"{e}. {_OWN_KEY}") from e


def heads_that_mine(name: str) -> str:
    """
    Args:
        name: of ROI heads.

    Returns:
        the name of their OHEM counterpart, or the same if they mine already.

    Raises:
        ValueError: if there is none, or they have rotated boxes.
    """
    if name in _COUNTERPARTS:
        return _COUNTERPARTS[name]
    heads = ROI_HEADS_REGISTRY.get(name) if name in ROI_HEADS_REGISTRY else None
    if heads is None:
        raise ValueError(
            f"MODEL.ROI_HEADS.NAME = {name!r} is not registered. If a module of your own registers "
            "it, name it with --import"
        )
    if issubclass(heads, RROIHeads):
        raise ValueError(
            f"MODEL.ROI_HEADS.NAME = {name!r} has rotated boxes; pictures and tables are for "
            "upright boxes only"
        )
    if not issubclass(heads, OHEMMixin):
        raise ValueError(
            f"MODEL.ROI_HEADS.NAME = {name!r} does not mine, and only "
            f"{', '.join(_COUNTERPARTS)} have a known counterpart that does. Register "
            f"`class OHEM{name}(OHEMMixin, {name}): pass`, name its module with --import and add "
            f"MODEL.ROI_HEADS.NAME OHEM{name}"
        )
    return name


class _Checkpointer(DetectionCheckpointer):
    """Remembers which parameters a checkpoint left as they were initialized."""

    untrained: tuple[str, ...] = ()

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        super()._log_incompatible_keys(incompatible)
        wrong = [name for name, *_ in incompatible.incorrect_shapes]
        self.untrained = (*incompatible.missing_keys, *wrong)


def load_model(cfg: CfgNode) -> tuple[nn.Module, list[str]]:
    """
    The model with its weights, in training mode as it mines only there, but with normalizations
    that use their running statistics, so that an image does not depend on its batch.

    Returns:
        the model, and the names of its parameters that the weights did not have.

    Raises:
        ValueError: if it cannot be built, is no R-CNN, has heads that cannot mine, or the weights
            cannot be read.
    """
    torch.manual_seed(max(cfg.SEED, 0))
    with naming("The model cannot be built from its configuration"):
        model = build_model(cfg)
    parts = ("preprocess_image", "backbone", "proposal_generator", "roi_heads")
    if missing := [part for part in parts if not hasattr(model, part)]:
        raise ValueError(
            f"MODEL.META_ARCHITECTURE = {cfg.MODEL.META_ARCHITECTURE!r} is no R-CNN: it has no "
            f"{', '.join(missing)}"
        )
    checkpointer = _Checkpointer(model)
    if cfg.MODEL.WEIGHTS:
        with naming(f"{cfg.MODEL.WEIGHTS} cannot be loaded as a checkpoint"):
            checkpointer.load(cfg.MODEL.WEIGHTS)
        parameters = dict(model.named_parameters())
        untrained = [name for name in checkpointer.untrained if name in parameters]
    else:
        untrained = [name for name, _ in model.named_parameters()]
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    return model, untrained


# ---- the images ------------------------------------------------------------------------------


def load_records(cfg: CfgNode, names: Sequence[str], classes: Sequence[str] = ()) -> list[dict]:
    """
    The images of data sets with their ground truth, in Detectron2's format, and with proposals if
    MODEL.LOAD_PROPOSALS. Of DATASETS.TRAIN those that a training takes: without the images that
    show no object, if DATALOADER.FILTER_EMPTY_ANNOTATIONS.

    Args:
        names: registered ones, or ``coco:...`` and ``voc:...``, see ``ohem_d2.datasets``.
        classes: see :func:`ohem_d2.datasets.register_datasets`.

    Raises:
        FileNotFoundError, KeyError, ValueError: names what is wrong.
    """
    own = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    # Data sets of the configuration belong together, as they did when it was trained.
    register_datasets([*(own if set(names) <= set(own) else ()), *names], classes)
    for name in names:
        if name not in DatasetCatalog.list():
            raise KeyError(
                f"Data set {name!r} is not registered. Name it coco:ANNOTATIONS.json:IMAGE_FOLDER "
                "or voc:FOLDER:SPLIT, or name the module that registers it with --import"
            )
    together, proposal_files = ", ".join(names), _proposal_files(cfg, names)
    with naming(f"Data set {together}"):
        records = get_detection_dataset_dicts(
            list(names), filter_empty=False, proposal_files=proposal_files
        )
    for name in names:
        _check_classes(cfg, name, MetadataCatalog.get(name).get("thing_classes"))
    for record in records:
        if "annotations" not in record:
            raise ValueError(f"{record['file_name']} has no annotations, and a loss needs labels")
    with_objects = [
        record
        for record in records
        if any(not annotation.get("iscrowd", 0) for annotation in record["annotations"])
    ]
    if not with_objects:  # files of images without labels, as of COCO's test set, are read as well
        raise ValueError(
            f"Data set {together} has no annotated object, and a loss needs labels. An image that "
            "shows none is looked at by python -m ohem_d2.inspect --image FILE --no-objects"
        )
    trained_on = set(names) <= set(cfg.DATASETS.TRAIN)
    return with_objects if trained_on and cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS else records


def load_image_record(
    cfg: CfgNode,
    image: Path,
    annotations: Path | None,
    classes: Sequence[str] = (),
) -> tuple[dict, list[str] | None]:
    """
    One image with its ground truth, in Detectron2's format.

    Args:
        annotations: a file in COCO format (``.json``) that has the image, or the image's in
            Pascal VOC format (``.xml``); None: the image shows no object.
        classes: names of the classes in the order of their ids, for VOC format; else those of
            DATASETS.TRAIN.

    Returns:
        the record, and the names of the classes as far as they are known.

    Raises:
        FileNotFoundError, ValueError: names what is wrong.
    """
    must_exist(image, "the image")
    _check_classes(cfg, "--classes", classes or None)
    if cfg.MODEL.LOAD_PROPOSALS:
        raise ValueError(
            "MODEL.LOAD_PROPOSALS is True, and proposals are given for data sets: use --dataset"
        )
    if annotations is None:
        return _record(image, []), list(classes) or _training_classes(cfg)
    must_exist(annotations, "the annotations")
    if annotations.suffix.lower() == ".xml":
        classes = list(classes) or _training_classes(cfg)
        return _record(image, _voc_objects(annotations, classes)), classes
    name = f"coco:{annotations}:{image.parent}"
    classes = register_datasets([name])
    _check_classes(cfg, name, classes)
    with naming(str(annotations)):
        records = DatasetCatalog.get(name)
    found = [r for r in records if Path(r["file_name"]).name == image.name]
    if len(found) != 1:
        raise ValueError(f"{annotations} has {len(found)} images called {image.name}; it needs one")
    return {**found[0], "file_name": str(image)}, classes


def image_mapper(cfg: CfgNode) -> Callable[[dict], dict]:
    """
    What makes a model's inputs of a record: resized as in a test, without augmentations, with
    ground truth as in training.
    """
    augmentations = build_augmentation(cfg, is_train=False)
    return CrowdDatasetMapper(cfg, is_train=True, augmentations=augmentations)


def spread(records: Sequence[dict], num: int) -> list[dict]:
    """At most ``num`` of the records, from all over the data set."""
    places = np.linspace(0, len(records) - 1, min(num, len(records))).round().astype(int)
    return [records[i] for i in places]


def _proposal_files(cfg: CfgNode, names: Sequence[str]) -> list[str] | None:
    if not cfg.MODEL.LOAD_PROPOSALS:
        return None
    files = dict(zip(cfg.DATASETS.TRAIN, cfg.DATASETS.PROPOSAL_FILES_TRAIN))
    files.update(zip(cfg.DATASETS.TEST, cfg.DATASETS.PROPOSAL_FILES_TEST))
    for name in names:
        if name not in files:
            raise ValueError(
                f"MODEL.LOAD_PROPOSALS is True, and DATASETS has no proposal file for {name}; add "
                "it to DATASETS.TRAIN and its file to DATASETS.PROPOSAL_FILES_TRAIN"
            )
    return [files[name] for name in names]


def _check_classes(cfg: CfgNode, name: str, classes: Sequence[str] | None) -> None:
    expected = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    if classes is not None and len(classes) != expected:
        raise ValueError(
            f"MODEL.ROI_HEADS.NUM_CLASSES = {expected}, but {name} has {len(classes)} classes: "
            f"{', '.join(classes[:10])}. Use the configuration that the model was trained with, as "
            f"OUTPUT_DIR/config.yaml, or add MODEL.ROI_HEADS.NUM_CLASSES {len(classes)}; VOC data "
            "that does not have all classes takes --classes"
        )


def _training_classes(cfg: CfgNode) -> list[str] | None:
    try:
        own = register_datasets((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))
    except FileNotFoundError:
        return None
    others = (MetadataCatalog.get(name).get("thing_classes", []) for name in cfg.DATASETS.TRAIN)
    for classes in (own, *others):
        if len(classes) == cfg.MODEL.ROI_HEADS.NUM_CLASSES:
            return list(classes)
    return None


def _record(image: Path, annotations: list[dict]) -> dict:
    return {"file_name": str(image), "image_id": image.stem, "annotations": annotations}


def _voc_objects(path: Path, classes: Sequence[str] | None) -> list[dict]:
    if not classes:
        raise ValueError(
            f"{path} is in Pascal VOC format, which does not number the classes: give their names "
            "in the order of their ids with --classes"
        )
    objects = []
    try:
        for found in ElementTree.parse(path).getroot().iter("object"):
            name = found.findtext("name")
            if name not in classes:
                raise ValueError(f"class {name!r} is none of {', '.join(classes)}")
            box = [float(found.findtext(f"bndbox/{side}")) for side in VOC_SIDES]
            box[0] -= 1.0  # as Detectron2 reads it: VOC counts pixels from 1
            box[1] -= 1.0
            objects.append(
                {
                    "bbox": box,
                    "bbox_mode": BoxMode.XYXY_ABS,
                    "category_id": list(classes).index(name),
                }
            )
    except (ElementTree.ParseError, TypeError, ValueError) as e:
        raise ValueError(f"{path} is not what was expected in Pascal VOC format: {e}") from e
    return objects
