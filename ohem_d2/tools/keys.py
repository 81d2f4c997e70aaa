"""Find values of a configuration's keys that would stop a run, perhaps after hours."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from detectron2.config import CfgNode
from PIL import Image

from .earlier_versions import check_moved
from .errors import InputError
from .load_model import check_weights


def is_text(value: Any) -> bool:
    """Whether it can be the name of a data set."""
    return isinstance(value, str)


def _whole(least: int) -> tuple[Callable[[Any], bool], str]:
    return lambda v: type(v) is int and v >= least, f"a whole number >= {least}"


def _wholes(least: int) -> tuple[Callable[[Any], bool], str]:
    return lambda v: all(type(x) is int and x >= least for x in v), f"whole numbers >= {least}"


def _among(*choices: str) -> tuple[Callable[[Any], bool], str]:
    return lambda v: v in choices, " or ".join(map(repr, choices))


# Keys of Detectron2, whether a value will do, and which will, in words. Others are checked when the
# model is built, and types when the configuration is read.
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
    Each fault in words that name the key and what is allowed; of a configuration to train with, or
    to evaluate with alone, which takes less.
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
    sampler = cfg.DATALOADER.SAMPLER_TRAIN
    if training and sampler.startswith("Weighted") and "TRAIN_REPEAT_FACTOR" not in cfg.DATASETS:
        yield (
            f"DATALOADER.SAMPLER_TRAIN = {sampler!r} takes DATASETS.TRAIN_REPEAT_FACTOR, which "
            "Detectron2's defaults lack; add that key in a module that --import names"
        )
    if len(cfg.MODEL.PIXEL_MEAN or ()) != len(cfg.MODEL.PIXEL_STD or ()):
        yield "MODEL.PIXEL_MEAN and MODEL.PIXEL_STD differ in length"
    # The evaluation has COCO's of 17 keypoints, if none are given.
    keypoints, sigmas = cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS, cfg.TEST.KEYPOINT_OKS_SIGMAS
    if cfg.MODEL.KEYPOINT_ON and cfg.DATASETS.TEST and (len(sigmas) or 17) != keypoints:
        yield (
            f"TEST.KEYPOINT_OKS_SIGMAS = {sigmas!r}; allowed: as many numbers as "
            f"MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS, which is {keypoints}"
        )
    yield from _fault(check_moved, cfg)
    yield from _fault(_check_device, cfg.MODEL.DEVICE)
    if training and cfg.SOLVER.AMP.ENABLED and not cfg.MODEL.DEVICE.startswith("cuda"):
        yield f"SOLVER.AMP.ENABLED = True needs a GPU; allowed with {cfg.MODEL.DEVICE!r}: False"
    yield from _fault(check_weights, cfg.MODEL.WEIGHTS)
    for split in ("TRAIN",) if training else ("TEST",):
        if not cfg.DATASETS[split]:
            yield f"DATASETS.{split} is empty: name the data with --{split.lower()}-data"


def config_notes(cfg: CfgNode, training: bool = True) -> Iterator[str]:
    """What of a configuration is odd, in words, but stops nothing."""
    solver = cfg.SOLVER
    first = min(
        [solver.MAX_ITER, *(solver.STEPS if "MultiStep" in solver.LR_SCHEDULER_NAME else ())]
    )
    if training and solver.WARMUP_ITERS >= first:
        yield (
            f"SOLVER.WARMUP_ITERS = {solver.WARMUP_ITERS} reaches beyond "
            f"{'SOLVER.MAX_ITER' if first == solver.MAX_ITER else 'the first of SOLVER.STEPS'}, "
            f"{first}, so the learning rate never is SOLVER.BASE_LR; lower it"
        )


def _fault(check: Callable, *args: Any) -> list[str]:
    try:
        check(*args)
    except InputError as e:
        return [str(e)]
    return []


def _check_device(device: str) -> None:
    try:
        kind = torch.device(device).type
    except RuntimeError as e:
        raise InputError(f"MODEL.DEVICE = {device!r}: {e}") from e
    if kind == "cuda" and not torch.cuda.is_available():
        raise InputError(
            f"MODEL.DEVICE = {device!r}, and PyTorch can use no GPU here; allowed: 'cpu'"
        )


def check_config(cfg: CfgNode, training: bool = True) -> None:
    """Raises InputError, which names the first of :func:`config_faults`."""
    for fault in config_faults(cfg, training):
        raise InputError(fault)
