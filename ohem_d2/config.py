"""Every configuration key of OHEM, its default, its meaning and the values it takes."""

import dataclasses
import difflib
import math
from collections.abc import Mapping
from typing import Any

import torch
from detectron2.config import CfgNode

_NODE = "MODEL.ROI_HEADS.OHEM"

# Keys that earlier versions had, with the value that asked for nothing, as files that Detectron2
# dumped then have it, and what to do about another one
_REMOVED = {
    "MAX_NEG_PER_POS": (-1, "delete it; RANK_LOC_WEIGHT shifts the balance"),
    "MIN_NEG_PER_IMAGE": (0, "delete it; MAX_FG_FRACTION leaves background a share"),
}

# Default of OHKM_TOPK, of 17 joints: the best of those that the paper tries
TOPK = 8


@dataclasses.dataclass(frozen=True)
class OHEMSettings:
    """
    The keys of ``MODEL.ROI_HEADS.OHEM`` in lower case, checked on construction.

    B, N, R are the paper's: B RoIs make the hard mini-batch of N images, R RoIs are proposed in
    an image. B/N is ``MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE``.

    Raises:
        ValueError: names the key, its value and what is allowed.
    """

    # The ranking loss of a RoI is rank_cls_weight * loss_cls + rank_loc_weight * loss_box_reg, of
    # the model's own losses with their own weights (Sec. 4.1; the paper's weights are 1 : 1).
    # 0 leaves a term out of the ranking; what is trained on does not change.
    rank_cls_weight: float = 1.0
    rank_loc_weight: float = 1.0
    # A RoI that overlaps a harder one by more than this IoU is dropped (Sec. 4.2; the paper: 0.7).
    nms_thresh: float = 0.7
    # Which RoIs may suppress each other: "class", those of the same assigned class, background
    # being one class (the authors' release); "agnostic", all of an image; "none", no NMS.
    nms_scope: str = "class"
    # "image": the B/N hardest RoIs of each image (the paper). "batch": the B hardest of all N
    # images together (of one process, if there are several); images with little left to learn
    # then give their share to others.
    budget: str = "image"
    # At most this share of the budget is foreground. 1.0: no cap (the paper).
    max_fg_fraction: float = 1.0
    # Background RoIs whose IoU with every object is below this are no candidates: the paper's
    # bg_lo, which Fast R-CNN sets to 0.1 and OHEM does without.
    bg_iou_low: float = 0.0
    # Background RoIs with a classification loss above this are no candidates: the model is sure
    # that they are objects, and where labels are missing they often are. With the cross entropy a
    # loss of 2.3 says that foreground has a probability of 0.9. 0.0: no limit (the paper).
    max_bg_loss: float = 0.0
    # Draw the B/N RoIs of an image at random among the so many times B/N hardest ones. 1.0: the
    # hardest themselves (the paper).
    draw_from: float = 1.0
    # Keep only this many proposals of an image, those with the highest objectness, before the
    # read-only pass; ground-truth boxes come on top. 0: all R.
    max_candidates: int = 0
    # RoIs that pass through the head at a time in the read-only pass: bounds its memory. Without
    # dropout the mined RoIs do not depend on it. 0: as many as the hard mini-batch has, or more if
    # their pooled features take less than 32 MiB, 200 MiB on a GPU.
    chunk_size: int = 0
    # Dropout is active in the read-only pass, with masks of its own, as in the authors' release.
    # That is, PyTorch's dropout layers are; other random layers rest while scoring.
    readonly_dropout: bool = True
    # "bfloat16" or "float16": the precision of the head in the read-only pass, by autocast; "" is
    # that of the training pass. Losses and ranking are in float32 in any case.
    readonly_precision: str = ""
    # Score all RoIs with a cheap stand-in for the box head first, and only the so many times B/N
    # most promising ones of each image exactly; the hard ones are chosen among these, all of them
    # if NMS leaves less than B/N. It changes few choices, see docs/benchmark.md. What is logged is
    # of the RoIs that are scored exactly. 0: all are (the paper).
    screening: float = 0.0
    # "readonly": the paper's two passes. "loss_layer": the alternative that the paper rejects
    # (Sec. 4.2), one pass over all RoIs that ignores the losses of the easy ones. It has the same
    # gradients at the cost of activations and backward work for all R, and is kept to compare.
    implementation: str = "readonly"
    # For so many iterations Detectron2's random sampling, with POSITIVE_FRACTION, comes first.
    warmup_iters: int = 0
    # Cascade R-CNN: mine for the "first" stage, whose hard RoIs are then refined through the
    # later ones as usual; or for "all" stages, each among all refined proposals.
    cascade_stages: str = "first"
    # Background RoIs that lie in a crowd or ignore region by this share of their area are no
    # candidates. Takes regions kept by CrowdDatasetMapper.
    ignore_ioa_thresh: float = 0.5

    def __post_init__(self) -> None:
        self._allow_choice("nms_scope", ("class", "agnostic", "none"))
        self._allow_choice("budget", ("image", "batch"))
        self._allow_choice("implementation", ("readonly", "loss_layer"))
        self._allow_choice("cascade_stages", ("first", "all"))
        self._allow_number("rank_cls_weight", lambda v: 0 <= v < math.inf, "a number >= 0")
        self._allow_number("rank_loc_weight", lambda v: 0 <= v < math.inf, "a number >= 0")
        self._allow_number("nms_thresh", lambda v: 0 <= v <= 1, "an IoU from 0 to 1")
        self._allow_choice("readonly_precision", ("", "bfloat16", "float16"))
        self._allow_number("screening", lambda v: v == 0 or v >= 1, "0 or a number >= 1")
        self._allow_number("max_fg_fraction", lambda v: 0 < v <= 1, "a share above 0, up to 1")
        self._allow_number("max_bg_loss", lambda v: v >= 0, "a number >= 0")
        self._allow_number("draw_from", lambda v: 1 <= v < math.inf, "a number >= 1")
        self._allow_number("bg_iou_low", lambda v: 0 <= v < 1, "an IoU from 0 to below 1")
        self._allow_number("ignore_ioa_thresh", lambda v: 0 < v <= 1, "a share above 0, up to 1")
        for name in ("max_candidates", "chunk_size", "warmup_iters"):
            self._allow_number(name, lambda v: v >= 0, "a whole number >= 0", whole=True)
        if not isinstance(self.readonly_dropout, bool):
            raise self._error("readonly_dropout", "True or False")

        if self.rank_cls_weight == 0 and self.rank_loc_weight == 0:
            raise self._error("rank_cls_weight", "above 0 when RANK_LOC_WEIGHT is 0")
        if self.nms_scope == "none" and self.nms_thresh != OHEMSettings.nms_thresh:
            raise self._error(
                "nms_thresh", 'left at its default when NMS_SCOPE is "none": no NMS would read it'
            )
        if self.screening > 0:
            # The stand-in ranks by loss alone, image by image.
            for name in ("budget", "max_fg_fraction"):
                if getattr(self, name) != getattr(OHEMSettings, name):
                    raise self._error(
                        name, "left at its default with SCREENING, which picks RoIs before it"
                    )
        if self.screening > 0 and self.cascade_stages == "all":
            raise self._error(
                "screening", '0 when CASCADE_STAGES is "all": later stages refine every RoI'
            )
        if self.implementation == "loss_layer":
            for name in ("chunk_size", "readonly_dropout", "readonly_precision", "screening"):
                if getattr(self, name) != getattr(OHEMSettings, name):
                    raise self._error(
                        name,
                        'left at its default when IMPLEMENTATION is "loss_layer": '
                        "there is no read-only pass that would read it",
                    )

    @classmethod
    def from_cfg(cls, cfg: Any) -> "OHEMSettings":
        """
        Read ``cfg.MODEL.ROI_HEADS.OHEM``; keys or the whole node may be missing (defaults).

        Raises:
            KeyError: for a key that OHEM does not know.
            ValueError: for a value that is not allowed.
        """
        node = cfg.MODEL.ROI_HEADS.get("OHEM", {})
        if not isinstance(node, Mapping):
            raise ValueError(
                f"{_NODE} = {node!r}; it is a node of keys, and heads mine by their name: set "
                "MODEL.ROI_HEADS.NAME, to OHEMROIHeads for example, and leave the node to "
                "ohem_d2.add_ohem_config(cfg)"
            )
        settings = cls.from_dict(node)
        if settings.warmup_iters > 0 and settings.warmup_iters >= cfg.SOLVER.MAX_ITER:
            raise settings._error(
                "warmup_iters", f"below SOLVER.MAX_ITER, which is {cfg.SOLVER.MAX_ITER}"
            )
        return settings

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "OHEMSettings":
        """
        Settings by name, in upper or lower case; defaults for those that are missing.

        Raises:
            KeyError, ValueError: as :meth:`from_cfg`.
        """
        keys = {field.name.upper(): field.name for field in dataclasses.fields(cls)}
        values = {key.upper(): value for key, value in values.items()}
        for key, (nothing, advice) in _REMOVED.items():
            if (value := values.pop(key, nothing)) != nothing:
                raise KeyError(f"{_NODE}.{key} = {value!r}: this key was removed in 0.3; {advice}")
        for key, value in values.items():
            if key not in keys:
                close = difflib.get_close_matches(key, keys, n=1)
                hint = f"; did you mean {close[0]}?" if close else ""
                raise KeyError(
                    f"{_NODE}.{key} = {value!r} is not a key of OHEM{hint}; "
                    f"allowed: {', '.join(keys)}"
                )
        return cls(**{keys[key]: value for key, value in values.items()})

    def check_budget(self, batch_size_per_image: int) -> None:
        """
        Raises:
            ValueError: if no or not the wanted RoIs fit into B/N = ``batch_size_per_image``.
        """
        if batch_size_per_image < 1:
            raise ValueError(
                f"MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = {batch_size_per_image!r} is the number of "
                "hard RoIs mined in an image; allowed: a whole number >= 1"
            )
        if int(self.max_fg_fraction * batch_size_per_image) < 1:
            raise self._error(
                "max_fg_fraction",
                f"at least one RoI of BATCH_SIZE_PER_IMAGE, which is {batch_size_per_image}",
            )
        if 0 < self.max_candidates < batch_size_per_image:
            raise self._error(
                "max_candidates",
                f"0 or at least BATCH_SIZE_PER_IMAGE, which is {batch_size_per_image}: "
                "with fewer there is nothing to choose from",
            )

    @property
    def precision(self) -> torch.dtype | None:
        """Of autocast in the read-only pass; None leaves autocast as it is."""
        precision = getattr(torch, self.readonly_precision or "float32")
        return None if precision is torch.float32 else precision

    def _error(self, name: str, allowed: str) -> ValueError:
        return ValueError(f"{_NODE}.{name.upper()} = {getattr(self, name)!r}; allowed: {allowed}")

    def _allow_choice(self, name: str, choices: tuple[str, ...]) -> None:
        if getattr(self, name) not in choices:
            raise self._error(name, " or ".join(f'"{choice}"' for choice in choices))

    def _allow_number(self, name: str, holds: Any, allowed: str, whole: bool = False) -> None:
        value = getattr(self, name)
        kinds = (int,) if whole else (int, float)
        # A NaN fails every comparison, so it fails here too.
        if isinstance(value, bool) or not isinstance(value, kinds) or not holds(value):
            raise self._error(name, allowed)


def add_ohem_config(cfg: CfgNode) -> None:
    """
    Add OHEM's keys with their defaults to a Detectron2 config, in place: the node
    ``MODEL.ROI_HEADS.OHEM``, those of the focal loss, and ``MODEL.ROI_KEYPOINT_HEAD.OHKM_TOPK``. A
    config that has them, as by ``ohem_d2.env``, stays as it is.
    """
    before = cfg.clone()
    defaults = {field.name.upper(): field.default for field in dataclasses.fields(OHEMSettings)}
    # A misspelt key in a file comes as far as OHEMSettings.from_cfg, which says what it should be.
    cfg.MODEL.ROI_HEADS.OHEM = CfgNode(defaults, new_allowed=True)
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
