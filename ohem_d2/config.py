"""Every configuration key of OHEM, its default, its meaning and the values it takes."""

import dataclasses
import difflib
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

import torch
from detectron2.config import CfgNode

S = TypeVar("S", bound="Settings")

# Keys of earlier versions for the balance of foreground and background, with the value that asked
# for nothing, as files that Detectron2 dumped then have it
_REMOVED = {"MAX_NEG_PER_POS": -1, "MIN_NEG_PER_IMAGE": 0, "MAX_FG_FRACTION": 1.0}

# Default of OHKM_TOPK, of 17 joints: the best of those that the paper tries
TOPK = 8


def key(default: Any, holds: Callable[[Any], bool], allowed: str) -> Any:
    """A field of :class:`Settings`: its default, which values may be, and which in words."""
    return dataclasses.field(default=default, metadata={"holds": holds, "allowed": allowed})


def choice(*values: str) -> Any:
    """One of these; the first is the default."""
    return key(values[0], values.__contains__, " or ".join(f'"{value}"' for value in values))


def switch(default: bool) -> Any:
    return key(default, lambda value: isinstance(value, bool), "True or False")


def whole(default: int, least: int) -> Any:
    return key(default, lambda value: is_whole(value, least), f"a whole number >= {least}")


def is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def number(default: float, holds: Callable[[float], bool], allowed: str) -> Any:
    def is_number(value: Any) -> bool:
        # A NaN fails every comparison, so it fails here too.
        return isinstance(value, (int, float)) and not isinstance(value, bool) and holds(value)

    return key(default, is_number, allowed)


@dataclasses.dataclass(frozen=True)
class Settings:
    """A node of a configuration, checked on construction: a field is the key in upper case."""

    NODE: ClassVar[str]  # its name in the configuration, with those of the nodes that it is in

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            holds = field.metadata["holds"](getattr(self, field.name))
            self.require(field.name, holds, field.metadata["allowed"])

    @classmethod
    def add_to(cls, cfg: CfgNode, new_allowed: bool = False) -> None:
        """Add the node with its defaults, in place."""
        *nodes, name = cls.NODE.split(".")
        for node in nodes:
            cfg = cfg[node]
        defaults = {field.name.upper(): field.default for field in dataclasses.fields(cls)}
        cfg[name] = CfgNode(defaults, new_allowed=new_allowed)

    @classmethod
    def from_cfg(cls: type[S], cfg: Any) -> S:
        """Keys or the whole node may be missing (defaults)."""
        for name in cls.NODE.split("."):
            cfg = cfg.get(name, {})
        return cls.from_dict(cfg)

    @classmethod
    def from_dict(cls: type[S], values: Mapping[str, Any]) -> S:
        """By name in upper or lower case; raises KeyError for a key that there is not."""
        keys = [field.name.upper() for field in dataclasses.fields(cls)]
        for name, value in values.items():
            if name.upper() not in keys:
                close = difflib.get_close_matches(name.upper(), keys, n=1)
                hint = f"; did you mean {close[0]}?" if close else ""
                raise KeyError(
                    f"{cls.NODE}.{name.upper()} = {value!r} is no key of this node{hint}; "
                    f"allowed: {', '.join(keys)}"
                )
        return cls(**{name.lower(): value for name, value in values.items()})

    def require(self, name: str, holds: bool, allowed: str) -> None:
        """Raises ValueError about a field, unless its value holds."""
        if not holds:
            value = getattr(self, name)
            raise ValueError(f"{self.NODE}.{name.upper()} = {value!r}; allowed: {allowed}")


@dataclasses.dataclass(frozen=True)
class OHEMSettings(Settings):
    """
    The keys of ``MODEL.ROI_HEADS.OHEM`` in lower case, checked on construction: a ValueError names
    the key, its value and what is allowed.

    B, N, R are the paper's: B RoIs make the hard mini-batch of N images, R RoIs are proposed in
    an image. B/N is ``MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE``.
    """

    NODE = "MODEL.ROI_HEADS.OHEM"

    # The ranking loss of a RoI is rank_cls_weight * loss_cls + rank_loc_weight * loss_box_reg, of
    # the model's own losses with their own weights (Sec. 4.1; the paper's weights are 1 : 1).
    # 0 leaves a term out of the ranking; what is trained on does not change.
    rank_cls_weight: float = number(1.0, lambda v: 0 <= v < math.inf, "a number >= 0")
    rank_loc_weight: float = number(1.0, lambda v: 0 <= v < math.inf, "a number >= 0")
    # A RoI that overlaps a harder one by more than this IoU is dropped (Sec. 4.2; the paper: 0.7).
    nms_thresh: float = number(0.7, lambda v: 0 <= v <= 1, "an IoU from 0 to 1")
    # Which RoIs may suppress each other: "class", those of the same assigned class, background
    # being one class (the authors' release); "agnostic", all of an image; "none", no NMS.
    nms_scope: str = choice("class", "agnostic", "none")
    # "image": the B/N hardest RoIs of each image (the paper). "batch": the B hardest of all N
    # images together (of one process, if there are several); images with little left to learn
    # then give their share to others.
    budget: str = choice("image", "batch")
    # Background RoIs whose IoU with every object is below this are no candidates: the paper's
    # bg_lo, which Fast R-CNN sets to 0.1 and OHEM does without. In images without objects all
    # RoIs are.
    bg_iou_low: float = number(0.0, lambda v: 0 <= v < 1, "an IoU from 0 to below 1")
    # Keep only this many proposals of an image, those with the highest objectness, before the
    # read-only pass; ground-truth boxes come on top. 0: all R.
    max_candidates: int = whole(0, 0)
    # RoIs that pass through the head at a time in the read-only pass: bounds its memory. Without
    # dropout the mined RoIs do not depend on it. 0: as many as the hard mini-batch has, or more if
    # their pooled features take less than 32 MiB, 200 MiB on a GPU.
    chunk_size: int = whole(0, 0)
    # Dropout is active in the read-only pass, with masks of its own, as in the authors' release.
    # That is, PyTorch's dropout layers are; other random layers rest while scoring.
    readonly_dropout: bool = switch(True)
    # "bfloat16" or "float16": the precision of the head in the read-only pass, by autocast; "" is
    # that of the training pass. Losses and ranking are in float32 in any case.
    readonly_precision: str = choice("", "bfloat16", "float16")
    # Score all RoIs with a cheap stand-in for the box head first, and only the so many times B/N
    # most promising ones of each image exactly; the hard ones are chosen among these, all of them
    # if NMS leaves less than B/N. It changes few choices, see docs/benchmark.md. What is logged is
    # of the RoIs that are scored exactly. 0: all are (the paper).
    screening: float = number(0.0, lambda v: v == 0 or v >= 1, "0 or a number >= 1")
    # "readonly": the paper's two passes. "loss_layer": the alternative that the paper rejects
    # (Sec. 4.2), one pass over all RoIs that ignores the losses of the easy ones. It has the same
    # gradients at the cost of activations and backward work for all R, and is kept to compare.
    implementation: str = choice("readonly", "loss_layer")
    # For so many iterations Detectron2's random sampling, with POSITIVE_FRACTION, comes first.
    warmup_iters: int = whole(0, 0)
    # Cascade R-CNN: mine for the "first" stage, whose hard RoIs are then refined through the
    # later ones as usual; or for "all" stages, each among all refined proposals.
    cascade_stages: str = choice("first", "all")
    # Background RoIs that lie in a crowd or ignore region by this share of their area are no
    # candidates. Takes regions kept by CrowdDatasetMapper.
    ignore_ioa_thresh: float = number(0.5, lambda v: 0 < v <= 1, "a share above 0, up to 1")

    def __post_init__(self) -> None:
        super().__post_init__()
        holds = self.rank_cls_weight > 0 or self.rank_loc_weight > 0
        self.require("rank_cls_weight", holds, "above 0 when RANK_LOC_WEIGHT is 0")
        if self.nms_scope == "none":
            self._require_default("nms_thresh", 'when NMS_SCOPE is "none": no NMS would read it')
        if self.screening > 0:
            self._require_default("budget", "with SCREENING, which picks RoIs image by image")
            allowed = '0 when CASCADE_STAGES is "all": later stages refine every RoI'
            self.require("screening", self.cascade_stages != "all", allowed)
        if self.implementation == "loss_layer":
            why = (
                'when IMPLEMENTATION is "loss_layer": there is no read-only pass that would read it'
            )
            for name in ("chunk_size", "readonly_dropout", "readonly_precision", "screening"):
                self._require_default(name, why)

    def _require_default(self, name: str, why: str) -> None:
        holds = getattr(self, name) == getattr(OHEMSettings, name)
        self.require(name, holds, f"left at its default {why}")

    @classmethod
    def from_cfg(cls, cfg: Any) -> "OHEMSettings":
        """
        Read ``cfg.MODEL.ROI_HEADS.OHEM``; keys or the whole node may be missing (defaults). Raises
        KeyError for a key that OHEM does not know, ValueError for a value that is not allowed.
        """
        settings = super().from_cfg(cfg)
        if settings.warmup_iters > 0:
            most = cfg.SOLVER.MAX_ITER
            allowed = f"below SOLVER.MAX_ITER, which is {most}"
            settings.require("warmup_iters", settings.warmup_iters < most, allowed)
        return settings

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "OHEMSettings":
        """
        Settings by name, in upper or lower case; defaults for those that are missing. It raises
        what :meth:`from_cfg` raises.
        """
        if not isinstance(values, Mapping):
            raise ValueError(
                f"{cls.NODE} = {values!r}; it is a node of keys, and heads mine by their name: set "
                "MODEL.ROI_HEADS.NAME, to OHEMROIHeads for example, and leave the node to "
                "ohem_d2.add_ohem_config(cfg)"
            )
        values = {name.upper(): value for name, value in values.items()}
        for name, nothing in _REMOVED.items():
            if (value := values.pop(name, nothing)) != nothing:
                raise KeyError(
                    f"{cls.NODE}.{name} = {value!r}: this key was removed in 0.3; delete it; "
                    "RANK_LOC_WEIGHT shifts the balance"
                )
        return super().from_dict(values)

    def check_budget(self, batch_size_per_image: int) -> None:
        """Raises ValueError if no or not the wanted RoIs fit into B/N, an image's batch size."""
        budget = f"BATCH_SIZE_PER_IMAGE, which is {batch_size_per_image}"
        if batch_size_per_image < 1:
            raise ValueError(
                f"MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = {batch_size_per_image!r} is the number of "
                "hard RoIs mined in an image; allowed: a whole number >= 1"
            )
        holds = self.max_candidates == 0 or self.max_candidates >= batch_size_per_image
        allowed = f"0 or at least {budget}: with fewer there is nothing to choose from"
        self.require("max_candidates", holds, allowed)

    @property
    def precision(self) -> torch.dtype | None:
        """Of autocast in the read-only pass; None leaves autocast as it is."""
        return getattr(torch, self.readonly_precision) if self.readonly_precision else None


def add_ohem_config(cfg: CfgNode) -> None:
    """
    Add OHEM's keys with their defaults to a Detectron2 config, in place: the node
    ``MODEL.ROI_HEADS.OHEM``, those of the focal loss, and ``MODEL.ROI_KEYPOINT_HEAD.OHKM_TOPK``. A
    config that has them, as by ``ohem_d2.env``, stays as it is.
    """
    before = cfg.clone()
    # A misspelt key in a file comes as far as OHEMSettings.from_cfg, which says what it should be.
    OHEMSettings.add_to(cfg, new_allowed=True)
    # How many joints of a person OHKMKeypointHead trains on, those with the highest loss.
    cfg.MODEL.ROI_KEYPOINT_HEAD.OHKM_TOPK = TOPK
    # Of FocalROIHeads and OHEMFocalROIHeads: the focal loss in the place of the cross entropy, over
    # the "softmax" of all classes and background, or a "sigmoid" of each class.
    cfg.MODEL.ROI_BOX_HEAD.FOCAL_LOSS_TYPE = "softmax"
    # The power of 1 - p that a loss is multiplied by, p being the probability of the right answer.
    # 0.0: the cross entropy.
    cfg.MODEL.ROI_BOX_HEAD.FOCAL_LOSS_GAMMA = 2.0
    # The weight of foreground; that of background is 1 - alpha. -1.0: neither has one.
    cfg.MODEL.ROI_BOX_HEAD.FOCAL_LOSS_ALPHA = -1.0
    cfg.merge_from_other_cfg(before)  # what was there already
