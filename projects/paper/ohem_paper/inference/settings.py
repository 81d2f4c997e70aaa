"""The configuration of the test-time extras."""

import dataclasses
from typing import ClassVar

from ..settings import Settings, is_number, is_whole


@dataclasses.dataclass(frozen=True)
class MultiScale(Settings):
    """The keys of ``TEST.MULTI_SCALE``; see :class:`.Settings`."""

    NODE: ClassVar[str] = "TEST.MULTI_SCALE"

    enabled: bool = False
    # Short sides to which each image is resized (the paper's for testing; for training they are
    # 480, 576, 688, 864, 900). Sizes that come out equal under the cap are run once. Empty: the
    # size in which the image comes, for flips alone.
    min_sizes: tuple[int, ...] = (480, 576, 688, 864, 1000)
    # Cap of the long side, which precedes the short side. The paper names a cap for the sake of
    # memory; 1000 is Fast R-CNN's at a single scale, which caps several scales at 2000.
    max_size: int = 1000
    # Run each scale a second time with the image mirrored. The paper does not.
    flip: bool = False

    def __post_init__(self) -> None:
        for name in ("enabled", "flip"):
            self.require(name, isinstance(getattr(self, name), bool), "True or False")
        sizes, largest = self.min_sizes, self.max_size
        self.require("max_size", is_whole(largest, 1), "a whole number >= 1")
        self.require(
            "min_sizes",
            isinstance(sizes, (list, tuple))
            and all(is_whole(short, 1) and short <= largest for short in sizes),
            f"a list of whole numbers from 1 to MAX_SIZE, which is {largest}",
        )


@dataclasses.dataclass(frozen=True)
class BoxVoting(Settings):
    """The keys of ``TEST.BOX_VOTING``; see :class:`.Settings`."""

    NODE: ClassVar[str] = "TEST.BOX_VOTING"

    enabled: bool = False
    # How often boxes are scored and regressed: 1 for voting alone, 2 for R1 and R2 (the paper).
    iterations: int = 2
    # Of boxes of a class that overlap by more than this IoU, the highest scoring one is kept; in
    # place of MODEL.ROI_HEADS.NMS_THRESH_TEST, which counts without voting.
    nms_thresh: float = 0.3
    # Boxes that overlap one that was kept by at least this IoU vote on its place.
    vote_thresh: float = 0.5

    def __post_init__(self) -> None:
        self.require("enabled", isinstance(self.enabled, bool), "True or False")
        self.require("iterations", is_whole(self.iterations, 1), "a whole number >= 1")
        for name in ("nms_thresh", "vote_thresh"):
            value = getattr(self, name)
            self.require(name, is_number(value) and 0 <= value <= 1, "an IoU from 0 to 1")
