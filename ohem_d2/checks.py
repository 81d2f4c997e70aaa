"""Check that OHEM can mine for heads, when they are built."""

import contextlib
import inspect
from collections.abc import Callable
from typing import Any

from detectron2.modeling.roi_heads import CascadeROIHeads
from torch import nn

from .config import NODE
from .mining.losses import CannotMine, check_predictor
from .mining.screening import BINS, can_screen


def check_roi_heads(heads: nn.Module, own_score_rois: bool) -> None:
    """Raises CannotMine if these heads cannot rank RoIs, ValueError for wrong settings."""
    settings, name, budget = heads.ohem, type(heads).__name__, heads.batch_size_per_image
    if budget < 1:
        key = "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE"
        raise ValueError(f"{key} = {budget!r}, the RoIs kept per image; allowed: a number >= 1")
    if not own_score_rois and (lack := _lacks(heads)):
        raise CannotMine(
            f"{name} {lack}, so it has to say how it scores RoIs: list OHEMCascadeROIHeads or "
            "OHEMRes5ROIHeads first among its bases if it is a cascade or a C4 head, else override "
            "score_rois(self, features, proposals) so that it predicts as its forward() does"
        )
    is_cascade, predictor = isinstance(heads, CascadeROIHeads), getattr(heads, "box_predictor", ())
    for part in predictor if isinstance(predictor, (tuple, nn.ModuleList)) else [predictor]:
        check_predictor(part)
    if settings.screening > 0 and (own_score_rois and not is_cascade or not can_screen(heads)):
        raise ValueError(
            f"{NODE}.SCREENING = {settings.screening} needs a box head that begins with a linear "
            f"layer on more than {BINS} x {BINS} bins, which {name} lacks; allowed: 0.0"
        )
    if settings.cascade_stages == "all" and not (
        is_cascade and _takes(heads._create_proposals_from_boxes, None, None)
    ):
        needed = "stages that are made of boxes alone" if is_cascade else "a cascade"
        raise CannotMine(f"{NODE}.CASCADE_STAGES = 'all' needs {needed}; {name} allows 'first'")


def _lacks(heads: nn.Module) -> str:
    """Why pooler, box head and predictor cannot be called one after another, or ""."""
    parts = {n: getattr(heads, n, None) for n in ("box_pooler", "box_head", "box_predictor")}
    usable = all(callable(p) and not isinstance(p, nn.ModuleList) for p in parts.values())
    if not usable or not hasattr(heads, "box_in_features"):
        return "has no standard box branch"
    for name, part in list(parts.items())[1:]:
        if not _takes(part.forward, None):
            return f"has a {name}, {type(part).__name__}, with several inputs"
    return ""


def _takes(function: Callable, *args: Any) -> bool:
    with contextlib.suppress(TypeError):
        return bool(inspect.signature(function).bind(*args))
    return False
