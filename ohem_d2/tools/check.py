"""
What of a configuration and its data would stop a run, perhaps after hours: looked for at the start
of each run, and with all images by ``train_net.py --check``.
"""

import contextlib
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from ..data.checks import (
    Fault,
    faults_if_any,
    image_faults,
    must_be_file,
    record_faults,
)
from ..data.coco import check_coco, coco_faults, read_coco
from ..data.datasets import must_be_registered, register_datasets
from ..data.records import check_records, described, needs_of, proposal_file, records_of
from ..data.voc import voc_faults
from ..errors import InputError, naming

MOST = 20  # faults of a kind that --check lists


def _whole(least: int) -> tuple[Callable[[Any], bool], str]:
    return lambda v: type(v) is int and v >= least, f"a whole number >= {least}"


def _wholes(least: int) -> tuple[Callable[[Any], bool], str]:
    return lambda v: all(type(x) is int and x >= least for x in v), f"whole numbers >= {least}"


def _among(*choices: str) -> tuple[Callable[[Any], bool], str]:
    return lambda v: v in choices, " or ".join(map(repr, choices))


# Keys of Detectron2, whether a value will do, and which will, in words. Others are checked when the
# model is built, and types when the configuration is read.
_KEYS = {
    "DATASETS.TRAIN": (lambda v: all(isinstance(name, str) for name in v), "names of data sets"),
    "DATASETS.TEST": (lambda v: all(isinstance(name, str) for name in v), "names of data sets"),
    "OUTPUT_DIR": (lambda v: v != "", "the name of a folder"),
    "SEED": (lambda v: v < 2**32, f"a whole number below {2**32}"),
    "DATALOADER.NUM_WORKERS": _whole(0),
    "INPUT.FORMAT": (
        lambda v: v in ("BGR", "YUV-BT.601", *Image.MODES),
        "'BGR', 'YUV-BT.601' or a mode of Pillow",
    ),
    "INPUT.MASK_FORMAT": _among("polygon", "bitmask"),
    "INPUT.MIN_SIZE_TRAIN": (lambda v: v and _wholes(0)[0](v), "one or more whole numbers"),
    "INPUT.MIN_SIZE_TEST": _whole(0),
    "INPUT.MAX_SIZE_TRAIN": _whole(1),
    "INPUT.MAX_SIZE_TEST": _whole(1),
    "INPUT.RANDOM_FLIP": _among("horizontal", "vertical", "none"),
    "MODEL.PIXEL_STD": (lambda v: all(x > 0 for x in v), "numbers above 0"),
    "MODEL.ROI_HEADS.NUM_CLASSES": _whole(1),
    "TEST.EXPECTED_RESULTS": (
        lambda v: all(isinstance(x + tolerance, (int, float)) for *_, x, tolerance in v),
        "a list of [task, metric, value, tolerance]",
    ),
}
_KEYS_OF_TRAINING = {
    "SOLVER.BASE_LR": (lambda v: 0 <= v < math.inf, "a number >= 0"),
    "SOLVER.CHECKPOINT_PERIOD": _whole(1),
    "SOLVER.IMS_PER_BATCH": _whole(1),
    "SOLVER.MAX_ITER": _whole(1),
    "SOLVER.WARMUP_ITERS": _whole(0),
    "SOLVER.WARMUP_METHOD": _among("constant", "linear"),
}


def config_faults(cfg: CfgNode, training: bool = True) -> Iterator[str]:
    """
    In words that name the key and what is allowed.

    Args:
        training: or an evaluation alone, which takes less.
    """
    for key, (holds, allowed) in {**_KEYS, **(_KEYS_OF_TRAINING if training else {})}.items():
        value = cfg
        for name in key.split("."):
            value = value[name]
        try:
            right = holds(value)
        except (TypeError, ValueError):  # None, or what is in a list is of another type
            right = False
        if not right:
            yield f"{key} = {value!r}; allowed: {allowed}"
    if training and cfg.SOLVER.LR_SCHEDULER_NAME == "WarmupMultiStepLR":
        steps, last = list(cfg.SOLVER.STEPS or ()), cfg.SOLVER.MAX_ITER
        if not _wholes(1)[0](steps) or steps != sorted({*steps} - {last}):
            allowed = "rising whole numbers >= 1, without SOLVER.MAX_ITER"
            yield f"SOLVER.STEPS = {cfg.SOLVER.STEPS!r}; allowed: {allowed}"
    if len(cfg.MODEL.PIXEL_MEAN or ()) != len(cfg.MODEL.PIXEL_STD or ()):
        yield "MODEL.PIXEL_MEAN and MODEL.PIXEL_STD differ in length"
    yield from _told(_check_device, cfg.MODEL.DEVICE)
    if cfg.MODEL.WEIGHTS and "://" not in cfg.MODEL.WEIGHTS:
        yield from _told(must_be_file, cfg.MODEL.WEIGHTS, "MODEL.WEIGHTS, the checkpoint")
    for split in ("TRAIN",) if training else ("TEST",):
        if not cfg.DATASETS[split]:
            yield f"DATASETS.{split} is empty: name the data with --{split.lower()}-data"


def _told(check: Callable, *args: Any) -> list[str]:
    try:
        with naming():
            check(*args)
    except InputError as e:
        return [str(e)]
    return []


def _check_device(device: str) -> None:
    with naming(f"MODEL.DEVICE = {device!r}"):
        if torch.device(device).type == "cuda" and not torch.cuda.is_available():
            raise InputError(
                f"MODEL.DEVICE = {device!r}, and PyTorch can use no GPU here; allowed: 'cpu'"
            )


def check_output(folder: str) -> None:
    """Raises InputError unless OUTPUT_DIR can be written to."""
    with naming(f"OUTPUT_DIR = {folder!r} cannot be written to"):
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


def check_config(cfg: CfgNode, training: bool = True) -> None:
    """Raises InputError, which names the first of :func:`config_faults`."""
    for fault in config_faults(cfg, training):
        raise InputError(fault)


def check_data(cfg: CfgNode, training: bool = True) -> list[str]:
    """
    At the start of a run, registered data sets; those to train on are looked into when they are
    loaded.

    Returns:
        what of the test data is wrong but stops nothing, in words.

    Raises:
        InputError: names the first fault that would stop the run.
    """
    found = []
    with naming():
        for name in (*(cfg.DATASETS.TRAIN if training else ()), *cfg.DATASETS.TEST):
            must_be_registered(name)
            proposal_file(cfg, name)
            meta = MetadataCatalog.get(name)
            file = str(meta.get("json_file", ""))
            if file and "://" not in file:
                must_be_file(file, f"the annotations of {name}")
                if name in cfg.DATASETS.TEST and meta.get("evaluator_type") == "coco":
                    check_coco(file, read_coco(file), evaluated=True)
        for name in cfg.DATASETS.TEST:
            faults, _ = check_records(cfg, name, records_of(cfg, name))
            found += [f"{described(name)}: {fault}" for fault in faults]
    return found


def check_whole(cfg: CfgNode, classes: Sequence[str] = ()) -> None:
    """
    Print what is wrong with the configuration and with all of its data.

    Args:
        cfg: is not changed.
        classes: see :func:`ohem_d2.data.datasets.register_datasets`.

    Raises:
        InputError: if something would stop a run.
    """
    cfg, train, test = cfg.clone(), cfg.DATASETS.TRAIN, cfg.DATASETS.TEST
    faults = {"The configuration": faults_if_any("values that do not do", config_faults(cfg))}
    faults |= {name: _faults_of_files(name, name in test) for name in (*train, *test)}
    sound = [name for name in faults if name in (*train, *test) and not _stops(faults[name])]
    with _noting(faults, "The data sets together"):
        if classes := register_datasets(sound, classes):
            cfg.MODEL.ROI_HEADS.NUM_CLASSES = len(classes)
    objects = 0
    registered = DatasetCatalog.list()
    for name in filter(registered.__contains__, sound):  # What is wrong with others has been noted.
        with _noting(faults, name):
            records = records_of(cfg, name)
            found, number = record_faults(records, needs_of(cfg))
            faults[name] += [*found, *image_faults(records, cfg.INPUT.FORMAT)]
            objects += number if name in train else 0
            print(f"{described(name)}: {len(records)} images")
    if not objects and set(train) <= set(sound):
        faults["The training data"] = [
            Fault("data sets without an object to train on", list(train))
        ]
    for name, found in faults.items():
        for fault in found:
            print(f"{name}: {fault.heading}")
            print(*(f"    {place}" for place in fault.where[:MOST]), sep="\n")
            if (more := len(fault.where) - MOST) > 0:
                print(f"    and {more} more")
    if num := sum(map(_stops, faults.values())):
        raise InputError(f"--check found what would stop a run, listed above (kinds: {num})")
    print("--check found nothing that would stop a run")


def _faults_of_files(name: str, evaluated: bool) -> list[Fault]:
    """Of those that hold the annotations of data named by where it lies, all of them."""
    kind, *place = name.split(":")
    try:
        if kind == "coco":
            return coco_faults(read_coco(place[0]), evaluated)
        return voc_faults(place[0]) if kind == "voc" else []
    except (FileNotFoundError, InputError) as e:
        return [Fault("error", [str(e)])]


def _stops(faults: Sequence[Fault]) -> int:
    return sum(fault.stops for fault in faults)


@contextlib.contextmanager
def _noting(faults: dict[str, list[Fault]], what: str) -> Iterator[None]:
    try:
        with naming():
            yield
    except InputError as e:
        faults.setdefault(what, []).append(Fault("error", [str(e)]))
