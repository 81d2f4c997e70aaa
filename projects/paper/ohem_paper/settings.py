"""The keys of the project: a node each, whose values are checked when they are read."""

import dataclasses
from typing import Any, ClassVar, TypeVar

from detectron2.config import CfgNode

from ohem_d2.tools.errors import InputError

N = TypeVar("N", bound="Node")


class Node:
    """A node of a configuration. The keys are the fields of a dataclass, in upper case."""

    NODE: ClassVar[str]  # its name, with those of the nodes that it is in

    @classmethod
    def add_to(cls, cfg: CfgNode) -> None:
        """Add the node with its defaults, in place."""
        *outer, name = cls.NODE.split(".")
        for node in outer:
            cfg = cfg[node]
        cfg[name] = CfgNode({key.upper(): value for key, value in vars(cls()).items()})

    @classmethod
    def from_cfg(cls: type[N], cfg: Any) -> N:
        """Keys or the whole node may be missing. Raises InputError, which says what is allowed."""
        for name in cls.NODE.split("."):
            cfg = cfg.get(name, {})
        return cls(**{key.lower(): value for key, value in cfg.items()})

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, kind = getattr(self, field.name), type(field.default)
            if kind is bool:
                self.require(field.name, isinstance(value, bool), "True or False")
            elif kind is int:
                self.require(field.name, is_whole(value, 0), "a whole number >= 0")
            elif kind is float:
                number = type(value) in (int, float) and 0 <= value <= 1
                self.require(field.name, number, "a number from 0 to 1")

    def require(self, name: str, holds: bool, allowed: str) -> None:
        """Raises InputError about a field, unless its value holds."""
        if not holds:
            value = getattr(self, name)
            raise InputError(f"{self.NODE}.{name.upper()} = {value!r}; allowed: {allowed}")


def is_whole(value: Any, least: int) -> bool:
    return type(value) is int and value >= least


@dataclasses.dataclass(frozen=True)
class MultiScale(Node):
    NODE = "TEST.MULTI_SCALE"

    enabled: bool = False
    # Short sides to which each image is resized (the paper's for testing; for training they are
    # 480, 576, 688, 864, 900); empty: the image as it comes.
    min_sizes: tuple[int, ...] = (480, 576, 688, 864, 1000)
    # Cap of the long side. The paper names one for the sake of memory; 1000 is Fast R-CNN's at a
    # single scale, which caps several scales at 2000.
    max_size: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("max_size", self.max_size >= 1, "a whole number >= 1")
        sizes = self.min_sizes if isinstance(self.min_sizes, (list, tuple)) else [None]
        holds = all(is_whole(short, 1) and short <= self.max_size for short in sizes)
        allowed = f"whole numbers from 1 to MAX_SIZE, which is {self.max_size}"
        self.require("min_sizes", holds, allowed)


@dataclasses.dataclass(frozen=True)
class BoxVoting(Node):
    NODE = "TEST.BOX_VOTING"

    enabled: bool = False
    # How often boxes are scored and regressed: 1 for voting alone, 2 for R1 and R2 (the paper).
    iterations: int = 2
    # The highest scoring one of boxes of a class that overlap by more than this IoU is kept. With
    # voting, MODEL.ROI_HEADS.NMS_THRESH_TEST does not count.
    nms_thresh: float = 0.3
    # Boxes that overlap one that was kept by at least this IoU vote on its place.
    vote_thresh: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("iterations", self.iterations >= 1, "a whole number >= 1")


@dataclasses.dataclass(frozen=True)
class BootstrapSettings(Node):
    NODE = "BOOTSTRAP"

    # Rounds of training on a fixed working set; between them are ROUNDS - 1 sweeps.
    rounds: int = 4
    # So many background proposals of each image, chosen at random, are in the first working set;
    # all foreground ones are.
    initial_background: int = 64
    # A background RoI is a false positive if its highest score of an object class is above this.
    score_thresh: float = 0.1
    # At most so many false positives of an image are added in a sweep, those with the highest
    # scores. 0: all.
    max_per_image: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("rounds", self.rounds >= 1, "a whole number >= 1")
        self.require("score_thresh", self.score_thresh < 1, "a score from 0 to below 1")

    @classmethod
    def from_cfg(cls, cfg: CfgNode) -> "BootstrapSettings":
        """Raises InputError also if there are more rounds than iterations."""
        settings, most = super().from_cfg(cfg), cfg.SOLVER.MAX_ITER
        allowed = f"up to SOLVER.MAX_ITER, which is {most}"
        settings.require("rounds", settings.rounds <= most, allowed)
        return settings


@dataclasses.dataclass(frozen=True)
class TrainingLoss(Node):
    NODE = "TRAINING_LOSS"

    # Every so many iterations, from before the first to after the last, the loss over all RoIs of
    # the training set is taken. 0: never.
    period: int = 0
    # So many images, spread evenly over the data set, instead of all. 0: all.
    num_images: int = 0
