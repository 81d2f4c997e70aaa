"""Read configurations of earlier versions: keys and parts that were moved to projects."""

import contextlib
import functools
from collections.abc import Iterator

from detectron2.config import CfgNode
from detectron2.modeling import ROI_HEADS_REGISTRY, ROI_KEYPOINT_HEAD_REGISTRY

from .errors import InputError

_FOCAL, _KEYPOINTS = "add --import projects.focal", "add --import projects.keypoints"
# The value of each key that asked for nothing, and what to do about another one
_KEYS = {
    "MODEL.ROI_BOX_HEAD.FOCAL_LOSS_TYPE": ("softmax", _FOCAL),
    "MODEL.ROI_BOX_HEAD.FOCAL_LOSS_GAMMA": (2.0, _FOCAL),
    "MODEL.ROI_BOX_HEAD.FOCAL_LOSS_ALPHA": (-1.0, _FOCAL),
    "MODEL.ROI_KEYPOINT_HEAD.OHKM_TOPK": (8, _KEYPOINTS),
    "SOLVER.ACCUMULATION_STEPS": (1, "delete it, or train with projects/paper/train.py"),
}


@contextlib.contextmanager
def earlier_keys(cfg: CfgNode) -> Iterator[None]:
    """
    Within the context, where files and overrides are merged, the configuration takes keys that were
    moved to projects, unless it has them from there. InputError for one that asks for something.
    """
    places = {key: key.rpartition(".") for key in _KEYS}
    added = [key for key, (node, _, name) in places.items() if name not in _node(cfg, node)]
    for node, _, name in map(places.get, added):
        _node(cfg, node)[name] = _KEYS[f"{node}.{name}"][0]
    yield
    for key in added:  # in new nodes, if a file was of an earlier version of Detectron2
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
