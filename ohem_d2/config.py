"""The keys of ``MODEL.ROI_HEADS.OHEM``: how RoIs are mined."""

import dataclasses
import difflib
import math
from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode
from omegaconf import DictConfig

NODE = "MODEL.ROI_HEADS.OHEM"

# What each key allows: a condition on a number and its description, or a list of values.
_ALLOWED = {
    "rank_cls_weight": (lambda v: 0 <= v < math.inf, "a number >= 0"),
    "rank_loc_weight": (lambda v: 0 <= v < math.inf, "a number >= 0"),
    "nms_thresh": (lambda v: 0 <= v <= 1, "an IoU from 0 to 1"),
    "nms_scope": ("class", "agnostic", "none"),
    "budget": ("image", "quota"),
    "chunk_size": (lambda v: isinstance(v, int) and v >= 0, "a whole number >= 0"),
    "readonly_dropout": (True, False),
    "readonly_precision": ("", "bfloat16", "float16"),
    "screening": (lambda v: v == 0 or 1 <= v < math.inf, "0 or a number >= 1"),
    "warmup_iters": (lambda v: isinstance(v, int) and v >= 0, "a whole number >= 0"),
    "cascade_stages": ("first", "all"),
    "ignore_ioa_thresh": (lambda v: 0 < v <= 1, "a share above 0, up to 1"),
    "verify": (True, False),
}
# Keys of earlier versions: the value that had no effect, and what to do about other values
_REMOVED = {
    "MAX_NEG_PER_POS": (-1, "delete it; RANK_LOC_WEIGHT shifts the balance"),
    "MIN_NEG_PER_IMAGE": (0, "delete it; RANK_LOC_WEIGHT shifts the balance"),
    "MAX_FG_FRACTION": (1.0, 'delete it, or set BUDGET "quota" and POSITIVE_FRACTION'),
    "BG_IOU_LOW": (0.0, "delete it; projects/paper has heads with Fast R-CNN's bg_lo"),
    "MAX_CANDIDATES": (0, "delete it, and set MODEL.RPN.POST_NMS_TOPK_TRAIN"),
    "IMPLEMENTATION": ("readonly", "delete it; projects/paper has heads with the loss layer"),
}


@dataclasses.dataclass(frozen=True)
class OHEMSettings:
    """The keys, in lower case. Raises ValueError for a value that is not allowed."""

    # RoIs are ranked by rank_cls_weight * loss_cls + rank_loc_weight * loss_box_reg, the losses
    # that the model trains on (Sec. 4.1; the paper's weights are 1 : 1). 0 leaves a term out.
    rank_cls_weight: float = 1.0
    rank_loc_weight: float = 1.0
    # NMS by loss drops a RoI whose IoU with a harder one is above this (Sec. 4.2; the paper: 0.7).
    nms_thresh: float = 0.7
    # Which RoIs may suppress each other. "class": those of the same class, or both background (the
    # authors' release); "agnostic": all RoIs of an image; "none": no NMS.
    nms_scope: str = "class"
    # Which RoIs are kept after NMS. "image": the BATCH_SIZE_PER_IMAGE hardest of each image (the
    # paper's B/N); "quota": as many, at most POSITIVE_FRACTION of them foreground (mmdetection's
    # OHEMSampler). Python code can also set a function, see mining/selection.py.
    budget: Any = "image"
    # RoIs per chunk of the read-only pass, which bounds its memory. 0: as many as are trained on,
    # or more if their pooled features fit in 32 MiB (on a GPU: 200 MiB).
    chunk_size: int = 0
    # Dropout is active in the read-only pass, with its own masks (the authors' release).
    readonly_dropout: bool = True
    # Precision of the read-only pass: "bfloat16" or "float16", by autocast; "": as in training.
    readonly_precision: str = ""
    # Score all RoIs with a cheap stand-in for the box head. Then score only the hardest of each
    # image exactly: this many times B/N. 0: score all RoIs exactly (the paper).
    screening: float = 0.0
    # For this many iterations Detectron2's random sampling comes first.
    warmup_iters: int = 0
    # Cascades only. "first": the first stage mines, and its hard RoIs go through the later stages;
    # "all": each stage mines, among all RoIs as refined by the stages before it.
    cascade_stages: str = "first"
    # Background RoIs with at least this share of their area in a crowd region are not mined. Needs
    # ohem_d2.CrowdDatasetMapper.
    ignore_ioa_thresh: float = 0.5
    # Compare the losses that RoIs are ranked by with the losses trained on, and stop if they
    # differ. This is done in the mined iterations 1, 2, 4, 8, ...
    verify: bool = True

    def __post_init__(self) -> None:
        for name, (first, *rest) in _ALLOWED.items():
            value = getattr(self, name)
            if callable(first):
                number = isinstance(value, (int, float)) and not isinstance(value, bool)
                self._require(name, number and first(value), rest[0])
            elif not (name == "budget" and callable(value)):
                known = isinstance(value, type(first)) and value in (first, *rest)
                self._require(name, known, " or ".join(map(repr, (first, *rest))))
        either = self.rank_cls_weight or self.rank_loc_weight
        self._require("rank_cls_weight", either > 0, "above 0 when RANK_LOC_WEIGHT is 0")
        holds = self.nms_thresh == 0.7 or self.nms_scope != "none"
        self._require("nms_thresh", holds, "0.7 when NMS_SCOPE is 'none': no NMS would read it")
        holds = self.screening == 0 or (self.budget, self.cascade_stages) == ("image", "first")
        self._require("screening", holds, "0 unless BUDGET is 'image' and CASCADE_STAGES 'first'")

    def _require(self, name: str, holds: bool, allowed: str) -> None:
        if not holds:
            value = getattr(self, name)
            raise ValueError(f"{NODE}.{name.upper()} = {value!r}; allowed: {allowed}")

    @classmethod
    def from_cfg(cls, cfg: CfgNode | DictConfig) -> "OHEMSettings":
        """Read ``cfg.MODEL.ROI_HEADS.OHEM``. Raises the errors of :meth:`from_dict`."""
        settings, most = cls.from_dict(cfg.MODEL.ROI_HEADS.get("OHEM", {})), cfg.SOLVER.MAX_ITER
        holds = settings.warmup_iters == 0 or settings.warmup_iters < most
        settings._require("warmup_iters", holds, f"below SOLVER.MAX_ITER, which is {most}")
        return settings

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "OHEMSettings":
        """Keys in any case. KeyError for an unknown or removed key, ValueError for a bad value."""
        if not isinstance(values, Mapping):
            how = "set MODEL.ROI_HEADS.NAME, and leave the node to ohem_d2.add_ohem_config(cfg)"
            raise ValueError(f"{NODE} = {values!r}; it is a node of keys: {how}")
        values = {name.upper(): value for name, value in values.items()}
        for name, (nothing, remedy) in _REMOVED.items():
            if (value := values.pop(name, nothing)) != nothing:
                raise KeyError(f"{NODE}.{name} = {value!r}: this key was removed; {remedy}")
        names = [name.upper() for name in _ALLOWED]
        for name in values.keys() - {*names}:
            close = "".join(difflib.get_close_matches(name, names, n=1))
            hint = f"did you mean {close}? allowed: " if close else "allowed: "
            raise KeyError(f"{NODE}.{name} = {values[name]!r} is unknown; {hint}{', '.join(names)}")
        return cls(**{name.lower(): value for name, value in values.items()})


def add_ohem_config(cfg: CfgNode) -> None:
    """Add ``MODEL.ROI_HEADS.OHEM`` with its defaults to a config. Keys already set are kept."""
    node = cfg.MODEL.ROI_HEADS.get("OHEM", {})
    if isinstance(node, Mapping):  # else from_cfg reports it, and misspelt keys too
        defaults = {name.upper(): value for name, value in vars(OHEMSettings()).items()}
        cfg.MODEL.ROI_HEADS.OHEM = CfgNode({**defaults, **node}, new_allowed=True)
