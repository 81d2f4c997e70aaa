"""From what a command line names to a model that mines."""

import argparse
import importlib
import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2 import model_zoo
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import ROI_HEADS_REGISTRY, build_model
from detectron2.modeling.roi_heads import RROIHeads
from torch import nn

from ..config import add_ohem_config
from ..heads import OHEMMixin
from ..monitor.scalars import logger
from .data.faults import must_be_file
from .input_errors import InputError, naming
from .training.checkpoints import Checkpointer
from .trust import add_trust_argument, merge_file

_COUNTERPARTS = {
    "StandardROIHeads": "OHEMROIHeads",
    "Res5ROIHeads": "OHEMRes5ROIHeads",
    "CascadeROIHeads": "OHEMCascadeROIHeads",
}

_OWN_KEY = (
    "If a module of your own adds this key, name it with --import; its function "
    "add_..._config(cfg) is then called"
)


def add_model_arguments(parser: argparse.ArgumentParser, config_required: bool) -> None:
    """Arguments that the commands share."""
    add = parser.add_argument
    files = "in YAML, as OUTPUT_DIR/config.yaml of a run, or a name in the model zoo; no LazyConfig"
    add("--config-file", required=config_required, metavar="FILE", help=files)
    add("--weights", default="", metavar="FILE", help="instead of MODEL.WEIGHTS")
    add_import_argument(parser)
    add_trust_argument(parser)
    add_classes_argument(parser)
    add("opts", nargs="*", metavar="KEY VALUE", help="overrides of the configuration")


def add_import_argument(parser: argparse.ArgumentParser) -> None:
    """--import MODULE, ``modules`` of :func:`default_cfg`."""
    parser.add_argument(
        "--import",
        dest="modules",
        action="append",
        default=[],
        metavar="MODULE",
        help="import it first, as it registers parts of the model or data sets; its functions "
        "add_..._config(cfg) are called; may be repeated",
    )


def add_classes_argument(parser: argparse.ArgumentParser) -> None:
    """--classes NAME,NAME: a list."""
    help_ = (
        "with commas between; of Pascal VOC data that may not have all, in the order of their ids"
    )
    type_, metavar = _class_names, "NAME,NAME..."
    parser.add_argument("--classes", type=type_, default=[], metavar=metavar, help=help_)


def _class_names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(f"{text!r} has an empty name; allowed: cat,traffic light")
    return names


def default_cfg(modules: Sequence[str] = ()) -> CfgNode:
    """
    Detectron2's defaults with the keys of OHEM, of the trainer here and of modules to import,
    which register parts of the model or data sets: their functions that are called
    ``add_..._config``, as those of Detectron2's projects, are given the configuration.

    Raises:
        InputError: if there is no such module.
    """
    cfg = get_cfg()
    for name in modules:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as e:
            raise InputError(f"--import {name}: {e}; is its folder in PYTHONPATH?") from e
        for function in vars(module):
            if re.fullmatch(r"add_\w*config", function):
                vars(module)[function](cfg)
    add_ohem_config(cfg)
    return cfg


def find_config_file(name: str) -> str:
    """
    The path of a file, or of a name in Detectron2's model zoo.

    Raises:
        FileNotFoundError: if it is neither.
    """
    if os.path.isfile(name):
        return name
    try:
        return model_zoo.get_config_file(name)
    except RuntimeError:
        message = f"{name}: no such file, and no such name in the model zoo"
        raise FileNotFoundError(message) from None


def merge(cfg: CfgNode, config_file: str, overrides: Sequence[str] = ()) -> CfgNode:
    """
    Into the configuration, in place. InputError names the file or the key, and what is wrong.

    Args:
        config_file: see :func:`find_config_file`; "": none.
        overrides: KEY, VALUE, KEY, VALUE...
    """
    if config_file:
        with naming("--config-file"):
            config_file = find_config_file(config_file)
        with naming(config_file):
            _merge_file(cfg, config_file)
    with naming():
        _merge_overrides(cfg, overrides)
    return cfg


def load_cfg(
    config_file: str,
    *,
    weights: str = "",
    overrides: Sequence[str] = (),
    modules: Sequence[str] = (),
) -> CfgNode:
    """
    The configuration of a model to look into: heads that mine, no masks or keypoints, which mining
    does not depend on, and a device that there is. InputError names what is wrong.

    Args:
        config_file: see :func:`find_config_file`.
        weights: instead of MODEL.WEIGHTS.
        overrides: KEY, VALUE, KEY, VALUE...
        modules: see :func:`default_cfg`.
    """
    cfg = merge(default_cfg(modules), config_file, overrides)
    cfg.MODEL.WEIGHTS = weights or cfg.MODEL.WEIGHTS
    if cfg.MODEL.WEIGHTS and "://" not in cfg.MODEL.WEIGHTS:
        with naming():
            must_be_file(cfg.MODEL.WEIGHTS.partition("?")[0], "MODEL.WEIGHTS, the checkpoint")
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
        merge_file(cfg, path)
    except KeyError as e:
        raise KeyError(f"{e.args[0]}. {_OWN_KEY}") from e
    except (AttributeError, TypeError) as e:
        said = (
            "there are no lines KEY: VALUE, as a configuration in YAML has, or not in a node of it"
        )
        raise ValueError(said) from e


def _merge_overrides(cfg: CfgNode, overrides: Sequence[str]) -> None:
    texts = list(map(str, overrides))
    words = itertools.takewhile(lambda text: "." not in text and text not in cfg, texts)
    if words := [word for word in words if not word.startswith("--")]:
        raise InputError(
            f"{' '.join(words)}: the KEY VALUE pairs begin there, and this is no key. Classes are "
            f"named in one word of the command, with commas: --classes {','.join(['...', *words])}"
        )
    if flags := [text for text in texts if re.match("--[a-z]", text)]:
        raise InputError(f"{flags[0]} stands after KEY VALUE pairs, and has to stand before them")
    if len(overrides) % 2:
        raise InputError(f"Overrides are KEY VALUE pairs; these are not: {' '.join(texts)}")
    # A misspelt key of OHEM comes as far as OHEMSettings, which says what it should be.
    for key in texts[::2]:
        if key.startswith("MODEL.ROI_HEADS.OHEM."):
            cfg.MODEL.ROI_HEADS.OHEM.setdefault(key.rpartition(".")[2], None)
    try:
        cfg.merge_from_list(list(overrides))
    except AssertionError as e:
        raise KeyError(f"{e}. {_OWN_KEY}") from e


def heads_that_mine(name: str) -> str:
    """
    The name of ROI heads' OHEM counterpart, or the same if they mine already.

    Raises:
        InputError: if there is none, or they have rotated boxes.
    """
    if name in _COUNTERPARTS:
        return _COUNTERPARTS[name]
    key = f"MODEL.ROI_HEADS.NAME = {name!r}"
    if name not in ROI_HEADS_REGISTRY:
        raise InputError(
            f"{key} is not registered. If a module of your own registers it, name it with --import"
        )
    heads = ROI_HEADS_REGISTRY.get(name)
    if issubclass(heads, RROIHeads):
        raise InputError(f"{key} has rotated boxes; pictures and tables are for upright boxes only")
    if not issubclass(heads, OHEMMixin):
        raise InputError(
            f"{key} does not mine, and only {', '.join(_COUNTERPARTS)} have a known counterpart "
            f"that does. Register `class OHEM{name}(OHEMMixin, {name}): pass`, name its module "
            f"with --import and add MODEL.ROI_HEADS.NAME OHEM{name}"
        )
    return name


class _Checkpointer(Checkpointer):
    """Remembers which parameters a checkpoint left as they were initialized."""

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        super()._log_incompatible_keys(incompatible)
        wrong = [name for name, *_ in incompatible.incorrect_shapes]
        self.untrained = {*incompatible.missing_keys, *wrong}


def load_model(cfg: CfgNode) -> tuple[nn.Module, list[str]]:
    """
    The model with its weights, in training mode as it mines only there, but with normalizations
    that use their running statistics, so that an image does not depend on its batch.

    Returns:
        the model, and what a reader should know of it: parameters that the weights did not have.

    Raises:
        InputError: if it cannot be built, is no R-CNN, has heads that cannot mine, or the weights
            cannot be read.
    """
    torch.manual_seed(max(cfg.SEED, 0))
    # What checks say of a model is of other types than bugs in the model.
    with naming("The model cannot be built from its configuration", (TypeError, IndexError)):
        model = build_model(cfg)
    if not hasattr(model, "roi_heads"):
        architecture = cfg.MODEL.META_ARCHITECTURE
        raise InputError(f"MODEL.META_ARCHITECTURE = {architecture!r} is no R-CNN: no roi_heads")
    untrained = [name for name, _ in model.named_parameters()]
    if cfg.MODEL.WEIGHTS:
        checkpointer = _Checkpointer(model)
        with naming(f"{cfg.MODEL.WEIGHTS} cannot be loaded as a checkpoint", only_data=True):
            checkpointer.load(cfg.MODEL.WEIGHTS)
        untrained = [name for name in untrained if name in checkpointer.untrained]
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    if not untrained:
        return model, []
    return model, [
        f"Not trained: {len(untrained)} parameters of the model are not in the weights, as "
        f"{untrained[0]}. What they find hard says nothing about a trained model."
    ]
