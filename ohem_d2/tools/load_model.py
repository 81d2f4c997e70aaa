"""Load the model that a command line names, with heads that mine."""

import argparse
import contextlib
import functools
import importlib
import itertools
import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from detectron2 import model_zoo
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import ROI_HEADS_REGISTRY, ROI_KEYPOINT_HEAD_REGISTRY, build_model
from detectron2.modeling.roi_heads import RROIHeads
from torch import nn

from ..config import NODE, add_ohem_config
from ..heads import OHEMMixin
from ..mining.scoring import BATCH_NORMS
from .cli import add_shared_arguments
from .errors import InputError, in_words, input_errors
from .files import must_be_file
from .training.checkpoints import Checkpointer
from .trust import OWN_KEY, merge_file

logger = logging.getLogger(__name__)

_FOCAL, _KEYPOINTS = "add --import projects.focal", "add --import projects.keypoints"
# Keys of earlier versions: the value that had no effect, and what to do about other values
_KEYS = {
    "MODEL.ROI_BOX_HEAD.FOCAL_LOSS_TYPE": ("softmax", _FOCAL),
    "MODEL.ROI_BOX_HEAD.FOCAL_LOSS_GAMMA": (2.0, _FOCAL),
    "MODEL.ROI_BOX_HEAD.FOCAL_LOSS_ALPHA": (-1.0, _FOCAL),
    "MODEL.ROI_KEYPOINT_HEAD.OHKM_TOPK": (8, _KEYPOINTS),
    "SOLVER.ACCUMULATION_STEPS": (1, "delete it, or train with projects/paper/train.py"),
}


def add_model_arguments(parser: argparse.ArgumentParser, config_required: bool) -> None:
    """Arguments that the commands share."""
    add = parser.add_argument
    files = "YAML, e.g. OUTPUT_DIR/config.yaml of a run, or a model zoo name; no LazyConfig"
    add("--config-file", required=config_required, metavar="FILE", help=files)
    add("--weights", default="", metavar="FILE", help="instead of MODEL.WEIGHTS")
    add_shared_arguments(parser, "--import", "--trust", "--classes")
    add("opts", nargs="*", metavar="KEY VALUE", help="overrides of the configuration")


def default_cfg(modules: Sequence[str] = ()) -> CfgNode:
    """
    Detectron2's defaults with the keys of OHEM. ``modules`` are imported, and their functions
    ``add_..._config(cfg)`` add keys, as in Detectron2's projects. InputError for a missing module.
    """
    cfg = get_cfg()
    for name in modules:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as e:
            raise InputError(f"--import {name}: {e}; is its folder in PYTHONPATH?") from e
        for function in vars(module):
            if re.fullmatch(r"add_\w*config", function):
                getattr(module, function)(cfg)
    add_ohem_config(cfg)
    return cfg


def find_config_file(name: str) -> str:
    """The path of a file, or of a name in Detectron2's model zoo; InputError if it is neither."""
    if os.path.isfile(name):
        return name
    try:
        return model_zoo.get_config_file(name)
    except RuntimeError as e:
        none = "no such file, and no such name in the model zoo"
        raise InputError(f"--config-file: {name}: {none}") from e


def merge(cfg: CfgNode, config_file: str, overrides: Sequence[str] = ()) -> CfgNode:
    """
    Merge a file (see :func:`find_config_file`; "" for none) and overrides (KEY, VALUE, KEY, ...)
    into the configuration, in place. InputError names the file or the key, and the fault.
    """
    with earlier_keys(cfg):
        if config_file:
            path = find_config_file(config_file)
            if path.endswith(".py") or "_target_:" in Path(path).read_text(errors="replace"):
                raise InputError(
                    f"{path}: this is a LazyConfig, and the commands take configurations in YAML. "
                    "Name one for the same model, and its checkpoint with --weights"
                )
            merge_file(cfg, path)
        _merge_overrides(cfg, overrides)
    return cfg


@contextlib.contextmanager
def earlier_keys(cfg: CfgNode) -> Iterator[None]:
    """
    Merge files and overrides within the context: there the configuration accepts keys that were
    moved to projects, unless it has them already. InputError if one has a value with an effect.
    """
    places = {key: key.rpartition(".") for key in _KEYS}
    added = [key for key, (node, _, name) in places.items() if name not in _node(cfg, node)]
    for node, _, name in map(places.get, added):
        _node(cfg, node)[name] = _KEYS[f"{node}.{name}"][0]
    yield
    for key in added:  # nodes are new if a file was of an earlier version of Detectron2
        node, _, name = places[key]
        value, (nothing, remedy) = _node(cfg, node).pop(name), _KEYS[key]
        if value != nothing:
            raise InputError(f"{key} = {value!r}: this key was moved out of ohem_d2; {remedy}")


def _node(cfg: CfgNode, path: str) -> CfgNode:
    return functools.reduce(dict.__getitem__, path.split("."), cfg)


def check_moved(cfg: CfgNode) -> None:
    """Raises InputError for a part of the model that was moved to projects and is not imported."""
    name = cfg.MODEL.ROI_HEADS.NAME
    if name in ("FocalROIHeads", "OHEMFocalROIHeads") and name not in ROI_HEADS_REGISTRY:
        raise InputError(f"MODEL.ROI_HEADS.NAME = {name!r} was moved out of ohem_d2; {_FOCAL}")
    key, name = "MODEL.ROI_KEYPOINT_HEAD.NAME", cfg.MODEL.ROI_KEYPOINT_HEAD.NAME
    is_used = cfg.MODEL.KEYPOINT_ON and name not in ROI_KEYPOINT_HEAD_REGISTRY
    if is_used and name == "OHKMKeypointHead":
        raise InputError(f"{key} = {name!r} was moved out of ohem_d2; {_KEYPOINTS}")


def load_cfg(
    config_file: str,
    *,
    weights: str = "",
    overrides: Sequence[str] = (),
    modules: Sequence[str] = (),
) -> CfgNode:
    """
    The configuration of a model to inspect: heads that mine, an available device, and no masks or
    keypoints, on which mining does not depend. InputError names what is wrong. ``weights`` replace
    MODEL.WEIGHTS. For the other arguments see :func:`merge` and :func:`default_cfg`.
    """
    cfg = merge(default_cfg(modules), config_file, overrides)
    cfg.MODEL.WEIGHTS = weights or cfg.MODEL.WEIGHTS
    check_weights(cfg.MODEL.WEIGHTS)
    cfg.MODEL.MASK_ON = cfg.MODEL.KEYPOINT_ON = False
    check_moved(cfg)
    heads, plain = cfg.MODEL.ROI_HEADS, cfg.MODEL.ROI_HEADS.NAME
    heads.NAME, cfg.VIS_PERIOD = heads_that_mine(plain), 0
    if heads.NAME != plain:
        budget = f"MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = {heads.BATCH_SIZE_PER_IMAGE}"
        logger.info(
            f"{heads.NAME} replaces {plain}. It mines as many RoIs per image as "
            f"{budget}; ohem_d2's configurations have 128"
        )
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    return cfg


def set_num_classes(cfg: CfgNode, num: int) -> None:
    """Set it for the ROI heads and for Detectron2's dense detector."""
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = cfg.MODEL.RETINANET.NUM_CLASSES = num


def check_weights(weights: str) -> None:
    """Raises InputError if MODEL.WEIGHTS names a file that does not exist."""
    if weights and "://" not in weights:
        # What follows a question mark tells Detectron2 how to read it.
        must_be_file(weights.partition("?")[0], "MODEL.WEIGHTS, the checkpoint")


def _merge_overrides(cfg: CfgNode, overrides: Sequence[str]) -> None:
    texts = list(map(str, overrides))
    words = itertools.takewhile(lambda text: "." not in text and text not in cfg, texts)
    if words := [word for word in words if not word.startswith("--")]:
        named = f"Classes are one word, with commas: --classes {','.join(['...', *words])}"
        begin = "the KEY VALUE pairs begin there, and this is not a key"
        raise InputError(f"{' '.join(words)}: {begin}. {named}")
    if flags := [text for text in texts if re.match("--[a-z]", text)]:
        raise InputError(f"{flags[0]} stands after KEY VALUE pairs, and has to stand before them")
    if len(overrides) % 2:
        raise InputError(f"Overrides are KEY VALUE pairs; these are not: {' '.join(texts)}")
    # A misspelt key of OHEM may pass here: OHEMSettings reports it, with a suggestion.
    for key in texts[::2]:
        if key.startswith(f"{NODE}."):
            cfg.MODEL.ROI_HEADS.OHEM.setdefault(key.rpartition(".")[2], None)
    try:
        cfg.merge_from_list(list(overrides))
    except AssertionError as e:  # the key does not exist
        raise InputError(f"{e}. {OWN_KEY}") from e
    except Exception as e:  # yacs could not evaluate the value
        raise InputError(in_words(e)) from e


def heads_class(name: str) -> type:
    """The class of registered ROI heads; ``object`` if there is none."""
    found = ROI_HEADS_REGISTRY.get(name) if name in ROI_HEADS_REGISTRY else None
    return found if isinstance(found, type) else object


def heads_that_mine(name: str) -> str:
    """The OHEM counterpart of ROI heads. InputError if there is none, or for rotated boxes."""
    given, heads = f"MODEL.ROI_HEADS.NAME = {name!r}", heads_class(name)
    counterpart = f"OHEM{name.removeprefix('Standard')}"
    if name not in ROI_HEADS_REGISTRY:
        own = "If a module of your own registers it, name it with --import"
        raise InputError(f"{given} is not registered. {own}")
    if issubclass(heads, RROIHeads):
        raise InputError(f"{given} has rotated boxes; this is for upright boxes only")
    if issubclass(heads, OHEMMixin):
        return name
    if counterpart in ROI_HEADS_REGISTRY:
        return counterpart
    raise InputError(
        f"{given} does not mine, and no {counterpart} is registered. Register `class {counterpart}"
        f"(OHEMMixin, {name}): pass`, and add --import MODULE MODEL.ROI_HEADS.NAME {counterpart}"
    )


def load_model(cfg: CfgNode) -> tuple[nn.Module, list[str]]:
    """
    The model with its weights, and a note about parameters that the weights lacked. It is in
    training mode, because it mines only there, but normalizations use running statistics, so that
    an image does not depend on its batch. InputError if model or weights are not usable.
    """
    torch.manual_seed(max(cfg.SEED, 0))
    with input_errors("The model cannot be built from its configuration"):
        model = build_model(cfg)
    if not hasattr(model, "roi_heads"):
        given = f"MODEL.META_ARCHITECTURE = {cfg.MODEL.META_ARCHITECTURE!r}"
        raise InputError(f"{given} is not an R-CNN: it has no roi_heads")
    checkpointer = Checkpointer(model)
    if cfg.MODEL.WEIGHTS:
        with input_errors(f"{cfg.MODEL.WEIGHTS} cannot be loaded as a checkpoint"):
            checkpointer.load(cfg.MODEL.WEIGHTS)
    model.train()
    for module in model.modules():
        if isinstance(module, BATCH_NORMS):
            module.eval()
    note = checkpointer.untrained()
    return model, [f"{note}. What they find hard says nothing about a trained model."] * bool(note)
