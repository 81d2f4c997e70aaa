"""Which heads OHEM can mine for, checked when they are built."""

import inspect

from detectron2.modeling.roi_heads import CascadeROIHeads, RROIHeads
from torch import nn

from .compat import has_compiled_ops
from .config import NODE
from .mining.losses import CannotMine, check_predictor
from .mining.screening import BINS, can_screen


def check_roi_heads(heads: nn.Module, own_score_rois: bool) -> None:
    """
    Raises CannotMine if heads with ``OHEMMixin``, perhaps with a ``score_rois`` of their own, or
    their predictor cannot be ranked by as they are; ValueError if settings do not fit them;
    ImportError if Detectron2 has no compiled ops for them.
    """
    settings, name, budget = heads.ohem, type(heads).__name__, heads.batch_size_per_image
    is_cascade = isinstance(heads, CascadeROIHeads)
    if budget < 1:
        key = "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE"
        raise ValueError(f"{key} = {budget!r}, the RoIs kept per image; allowed: a number >= 1")
    if not own_score_rois and (lack := _lacks(heads)):
        raise CannotMine(
            f"{name} {lack}, so it has to say how it scores RoIs: list OHEMCascadeROIHeads or "
            "OHEMRes5ROIHeads first among its bases if it is a cascade or a C4 head, else override "
            "score_rois(self, features, proposals) so that it predicts as its forward() does"
        )
    predictor = getattr(heads, "box_predictor", None)
    for part in predictor if isinstance(predictor, nn.ModuleList) else [predictor]:
        if part is not None:
            check_predictor(part)
    if settings.screening > 0 and (own_score_rois and not is_cascade or not can_screen(heads)):
        raise ValueError(
            f"{NODE}.SCREENING = {settings.screening} needs a box head that begins with a linear "
            f"layer on more than {BINS} x {BINS} bins, which {name} has not; allowed: 0.0"
        )
    if settings.cascade_stages == "all":
        create = getattr(heads, "_create_proposals_from_boxes", None)
        needed = inspect.signature(create).parameters.values() if is_cascade else ()
        if [p for p in needed if p.default is p.empty][2:] or not is_cascade:
            why = "stages that are made of boxes alone" if is_cascade else "a cascade"
            raise CannotMine(f"{NODE}.CASCADE_STAGES = 'all' needs {why}; {name}: allowed: 'first'")
    if isinstance(heads, RROIHeads) and not has_compiled_ops():
        raise ImportError(
            f"{name} has rotated boxes, which need Detectron2's compiled ops: pip install "
            "'git+https://github.com/facebookresearch/detectron2.git'"
        )


def _lacks(heads: nn.Module) -> str:
    """What keeps pooler, box head and predictor from being called one after another; or ""."""
    parts = {n: getattr(heads, n, None) for n in ("box_pooler", "box_head", "box_predictor")}
    usable = all(callable(p) and not isinstance(p, nn.ModuleList) for p in parts.values())
    if not usable or not hasattr(heads, "box_in_features"):
        return "has no standard box branch"
    for name in ("box_head", "box_predictor"):
        try:
            inspect.signature(parts[name].forward).bind(None)
        except TypeError as e:
            return f"has a {name}, {type(parts[name]).__name__}, with several inputs ({e})"
    return ""
