"""What a bootstrapping run is set to, and which detectors it takes."""

import dataclasses
from typing import ClassVar

from detectron2.config import CfgNode
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, CascadeROIHeads, StandardROIHeads

from ohem_d2 import OHEMMixin

from ..settings import Settings, is_number, is_whole


@dataclasses.dataclass(frozen=True)
class BootstrapSettings(Settings):
    """The keys of ``BOOTSTRAP``; see :class:`.Settings`."""

    NODE: ClassVar[str] = "BOOTSTRAP"

    # Rounds of training on a fixed working set; between them are ROUNDS - 1 sweeps.
    rounds: int = 4
    # So many background proposals of each image, chosen at random, are in the first working set;
    # all foreground ones are.
    initial_background: int = 64
    # A background RoI is a false positive if its highest score of an object class is above this.
    score_thresh: float = 0.1
    # Background of the working set that scores below this in a sweep is dropped, as easy examples
    # are in Felzenszwalb et al. 2010. 0: nothing is, the set only grows.
    keep_thresh: float = 0.0
    # At most so many false positives of an image are added in a sweep, those with the highest
    # scores. 0: all.
    max_per_image: int = 100

    def __post_init__(self) -> None:
        self.require("rounds", is_whole(self.rounds, 1), "a whole number >= 1")
        for name in ("initial_background", "max_per_image"):
            self.require(name, is_whole(getattr(self, name), 0), "a whole number >= 0")
        score, keep = self.score_thresh, self.keep_thresh
        holds = is_number(score) and 0 <= score < 1
        self.require("score_thresh", holds, "a score from 0 to below 1")
        self.require(
            "keep_thresh",
            is_number(keep) and 0 <= keep <= score,
            f"a score from 0 to SCORE_THRESH, which is {score}, so that what is added is not "
            "dropped",
        )

    @classmethod
    def from_cfg(cls, cfg: CfgNode) -> "BootstrapSettings":
        """Raises ValueError also if there are more rounds than iterations."""
        settings, most = super().from_cfg(cfg), cfg.SOLVER.MAX_ITER
        allowed = f"up to SOLVER.MAX_ITER, which is {most}"
        settings.require("rounds", settings.rounds <= most, allowed)
        return settings


def check_config(cfg: CfgNode) -> None:
    """
    Raises:
        ValueError: if the configuration is of a detector that cannot be bootstrapped here.
    """
    generator = cfg.MODEL.PROPOSAL_GENERATOR.NAME
    if not cfg.MODEL.LOAD_PROPOSALS or generator != "PrecomputedProposals":
        raise ValueError(
            f"MODEL.LOAD_PROPOSALS = {cfg.MODEL.LOAD_PROPOSALS!r} and "
            f"MODEL.PROPOSAL_GENERATOR.NAME = {generator!r}; allowed: True and "
            "'PrecomputedProposals', because a working set refers to proposals that stay the same"
        )
    if len(cfg.DATASETS.PROPOSAL_FILES_TRAIN) != len(cfg.DATASETS.TRAIN):
        raise ValueError(
            f"DATASETS.PROPOSAL_FILES_TRAIN = {cfg.DATASETS.PROPOSAL_FILES_TRAIN!r}; allowed: one "
            f"file for each of DATASETS.TRAIN, which is {cfg.DATASETS.TRAIN!r}"
        )
    name = cfg.MODEL.ROI_HEADS.NAME
    heads = ROI_HEADS_REGISTRY.get(name)
    if not issubclass(heads, StandardROIHeads) or issubclass(heads, (CascadeROIHeads, OHEMMixin)):
        raise ValueError(
            f"MODEL.ROI_HEADS.NAME = {name!r}; allowed: StandardROIHeads or heads that build on "
            "them, with one stage, and that do not mine by themselves"
        )


def round_of(iteration: int, max_iter: int, rounds: int) -> int:
    """The round, from 0, that an iteration belongs to; lengths of rounds differ by at most 1."""
    return iteration * rounds // max_iter
