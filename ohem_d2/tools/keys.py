"""Find values of a configuration's keys that would stop a run, perhaps after hours."""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling.roi_heads import RROIHeads
from PIL import Image

from ..config import NODE, OHEMSettings
from ..heads import OHEMMixin
from .collect_env import has_compiled_ops
from .errors import InputError
from .load_model import check_moved, check_weights, heads_class


def is_text(value: Any) -> bool:
    """Whether it can be the name of a data set."""
    return isinstance(value, str)


def _whole(least: int) -> tuple[Callable[[Any], bool], str]:
    return lambda v: type(v) is int and v >= least, f"a whole number >= {least}"


def _wholes(least: int) -> tuple[Callable[[Any], bool], str]:
    return lambda v: all(type(x) is int and x >= least for x in v), f"whole numbers >= {least}"


def _among(*choices: str) -> tuple[Callable[[Any], bool], str]:
    return lambda v: v in choices, " or ".join(map(repr, choices))


# Keys of Detectron2, each with a test of its value, and what is allowed in words. Other keys are
# checked when the model is built, and types when the configuration is read.
_KEYS = {
    "DATASETS.TRAIN": (lambda v: all(map(is_text, v)), "names of data sets"),
    "DATASETS.TEST": (lambda v: all(map(is_text, v)), "names of data sets"),
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
        lambda v: all(is_text(a) and is_text(b) and math.isfinite(x + y) for a, b, x, y in v),
        "a list of [task, metric, value, tolerance]",
    ),
}
_KEYS_OF_TRAINING = {
    "TEST.PRECISE_BN.NUM_ITER": _whole(1),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": _among("choice", "range"),
    "SOLVER.BASE_LR": (lambda v: 0 <= v < math.inf, "a number >= 0"),
    "SOLVER.CHECKPOINT_PERIOD": _whole(1),
    "SOLVER.IMS_PER_BATCH": _whole(1),
    "SOLVER.MAX_ITER": _whole(1),
    "SOLVER.WARMUP_ITERS": _whole(0),
    "SOLVER.WARMUP_METHOD": _among("constant", "linear"),
}


def config_faults(cfg: CfgNode, training: bool = True) -> Iterator[str]:
    """Name each key with a wrong value, and what it allows, for a training or an evaluation."""
    for key, (holds, allowed) in {**_KEYS, **(_KEYS_OF_TRAINING if training else {})}.items():
        value = functools.reduce(dict.__getitem__, key.split("."), cfg)
        try:
            right = holds(value)
        except (TypeError, ValueError):  # None, or a list with items of another type
            right = False
        if not right:
            yield f"{key} = {value!r}; allowed: {allowed}"
    if training and cfg.SOLVER.LR_SCHEDULER_NAME == "WarmupMultiStepLR":
        steps, last = list(cfg.SOLVER.STEPS or ()), cfg.SOLVER.MAX_ITER
        if not _wholes(1)[0](steps) or steps != sorted({*steps} - {last}):
            allowed = "rising whole numbers >= 1, without SOLVER.MAX_ITER"
            yield f"SOLVER.STEPS = {cfg.SOLVER.STEPS!r}; allowed: {allowed}"
    if training and cfg.SOLVER.LR_SCHEDULER_NAME == "WarmupStepWithFixedGammaLR":
        fails = "fails after the last iteration; allowed: another, as 'WarmupMultiStepLR'"
        yield f"SOLVER.LR_SCHEDULER_NAME = {cfg.SOLVER.LR_SCHEDULER_NAME!r} {fails}"
    yield from _faults_of_sizes(cfg) if training else ()
    sampler = cfg.DATALOADER.SAMPLER_TRAIN
    if training and sampler.startswith("Weighted") and "TRAIN_REPEAT_FACTOR" not in cfg.DATASETS:
        how = "which this Detectron2 lacks; add that key in a module that --import names"
        yield f"DATALOADER.SAMPLER_TRAIN = {sampler!r} takes DATASETS.TRAIN_REPEAT_FACTOR, {how}"
    if len(cfg.MODEL.PIXEL_MEAN or ()) != len(cfg.MODEL.PIXEL_STD or ()):
        yield "MODEL.PIXEL_MEAN and MODEL.PIXEL_STD differ in length"
    # Without sigmas, the evaluation takes COCO's for 17 keypoints.
    keypoints, sigmas = cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS, cfg.TEST.KEYPOINT_OKS_SIGMAS
    if cfg.MODEL.KEYPOINT_ON and cfg.DATASETS.TEST and (len(sigmas) or 17) != keypoints:
        allowed = f"as many numbers as MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS, which is {keypoints}"
        yield f"TEST.KEYPOINT_OKS_SIGMAS = {sigmas!r}; allowed: {allowed}"
    name, device = cfg.MODEL.ROI_HEADS.NAME, cfg.MODEL.DEVICE
    if issubclass(heads_class(name), RROIHeads) and not has_compiled_ops():
        need = "has rotated boxes, which need Detectron2's compiled ops"
        yield f"MODEL.ROI_HEADS.NAME = {name!r} {need}: build Detectron2 with them"
    for check, given in (
        (check_moved, cfg),
        (_check_device, device),
        (check_weights, cfg.MODEL.WEIGHTS),
    ):
        try:
            check(given)
        except InputError as e:
            yield str(e)
    if training and cfg.SOLVER.AMP.ENABLED and not device.startswith("cuda"):
        yield f"SOLVER.AMP.ENABLED = True needs a GPU; allowed with {device!r}: False"
    for split in ("TRAIN",) if training else ("TEST",):
        if not cfg.DATASETS[split]:
            yield f"DATASETS.{split} is empty: name the data with --{split.lower()}-data"


# By the type of a crop, a test of its size and what is allowed in words
_CROPS = {
    "relative": (lambda a, b: 0 < a <= 1 and 0 < b <= 1, "two numbers above 0, at most 1"),
    "absolute": (lambda *v: _wholes(1)[0](v), "two whole numbers >= 1"),
    "absolute_range": (
        lambda a, b: 1 <= a <= b and a == int(a) and b == int(b),
        "two whole numbers >= 1, the smaller first",
    ),
}
_CROPS["relative_range"] = _CROPS["relative"]


def _faults_of_sizes(cfg: CfgNode) -> Iterator[str]:
    """Of pairs that Detectron2's augmentations fail on in the training."""
    sizes, crop = cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.CROP
    if cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "range" and not _holds(lambda a, b: a <= b, sizes):
        allowed = "two, the smaller first, as INPUT.MIN_SIZE_TRAIN_SAMPLING is 'range'"
        yield f"INPUT.MIN_SIZE_TRAIN = {sizes!r}; allowed: {allowed}"
    if not crop.ENABLED:
        return
    if crop.TYPE not in _CROPS:
        yield f"INPUT.CROP.TYPE = {crop.TYPE!r}; allowed: {' or '.join(map(repr, _CROPS))}"
    elif not _holds(_CROPS[crop.TYPE][0], crop.SIZE):
        allowed = _CROPS[crop.TYPE][1]
        yield f"INPUT.CROP.SIZE = {crop.SIZE!r}; allowed with {crop.TYPE!r}: {allowed}"


def _holds(test: Callable[..., bool], pair: Any) -> bool:
    try:
        return test(*pair)
    except (TypeError, ValueError):  # None, or another number of items, or of another type
        return False


def config_notes(cfg: CfgNode, training: bool = True) -> Iterator[str]:
    """What is odd in a configuration, but stops nothing, in words."""
    warmup, most = cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.MAX_ITER
    steps = cfg.SOLVER.STEPS if "MultiStep" in cfg.SOLVER.LR_SCHEDULER_NAME else ()
    first = min([most, *steps])
    if training and warmup >= first:
        end = f"{'SOLVER.MAX_ITER' if first == most else 'the first of SOLVER.STEPS'}, {first}"
        never = "so the learning rate never reaches SOLVER.BASE_LR; lower it"
        yield f"SOLVER.WARMUP_ITERS = {warmup} reaches beyond {end}, {never}"
    if cfg.TEST.AUG.ENABLED:
        yield "TEST.AUG.ENABLED = True has no effect: evaluations here are without augmentation"
    name, defaults, node = cfg.MODEL.ROI_HEADS.NAME, vars(OHEMSettings()), cfg.MODEL.ROI_HEADS.OHEM
    mines = issubclass(heads_class(name), OHEMMixin)
    if not mines and any(defaults.get(key.lower()) != value for key, value in node.items()):
        yield f"MODEL.ROI_HEADS.NAME = {name!r} does not mine, so {NODE} has no effect"


def _check_device(device: str) -> None:
    try:
        kind = torch.device(device).type
    except RuntimeError as e:
        raise InputError(f"MODEL.DEVICE = {device!r}: {e}") from e
    if kind == "cuda" and not torch.cuda.is_available():
        none = "but PyTorch finds no GPU here; allowed: 'cpu'"
        raise InputError(f"MODEL.DEVICE = {device!r}, {none}")


def check_config(cfg: CfgNode, training: bool = True) -> None:
    """Raises InputError, which names the first of :func:`config_faults`."""
    for fault in config_faults(cfg, training):
        raise InputError(fault)
