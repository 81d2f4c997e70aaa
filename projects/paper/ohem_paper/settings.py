"""The checked keys of the project."""

import dataclasses

from detectron2.config import CfgNode

from ohem_d2.config import Settings, is_whole, key, number, switch, whole


@dataclasses.dataclass(frozen=True)
class MultiScale(Settings):
    NODE = "TEST.MULTI_SCALE"

    enabled: bool = switch(False)
    # Short sides to which each image is resized (the paper's for testing; for training they are
    # 480, 576, 688, 864, 900). Sizes that come out equal under the cap are run once. Empty: the
    # size in which the image comes, for flips alone.
    min_sizes: tuple[int, ...] = key(
        (480, 576, 688, 864, 1000), lambda sizes: isinstance(sizes, (list, tuple)), "a list"
    )
    # Cap of the long side, which precedes the short side. The paper names a cap for the sake of
    # memory; 1000 is Fast R-CNN's at a single scale, which caps several scales at 2000.
    max_size: int = whole(1000, 1)
    # Run each scale a second time with the image mirrored. The paper does not.
    flip: bool = switch(False)

    def __post_init__(self) -> None:
        super().__post_init__()
        holds = all(is_whole(short, 1) and short <= self.max_size for short in self.min_sizes)
        allowed = f"whole numbers from 1 to MAX_SIZE, which is {self.max_size}"
        self.require("min_sizes", holds, allowed)


@dataclasses.dataclass(frozen=True)
class BoxVoting(Settings):
    NODE = "TEST.BOX_VOTING"

    enabled: bool = switch(False)
    # How often boxes are scored and regressed: 1 for voting alone, 2 for R1 and R2 (the paper).
    iterations: int = whole(2, 1)
    # Of boxes of a class that overlap by more than this IoU, the highest scoring one is kept; in
    # place of MODEL.ROI_HEADS.NMS_THRESH_TEST, which counts without voting.
    nms_thresh: float = number(0.3, lambda iou: 0 <= iou <= 1, "an IoU from 0 to 1")
    # Boxes that overlap one that was kept by at least this IoU vote on its place.
    vote_thresh: float = number(0.5, lambda iou: 0 <= iou <= 1, "an IoU from 0 to 1")


@dataclasses.dataclass(frozen=True)
class BootstrapSettings(Settings):
    NODE = "BOOTSTRAP"

    # Rounds of training on a fixed working set; between them are ROUNDS - 1 sweeps.
    rounds: int = whole(4, 1)
    # So many background proposals of each image, chosen at random, are in the first working set;
    # all foreground ones are.
    initial_background: int = whole(64, 0)
    # A background RoI is a false positive if its highest score of an object class is above this.
    score_thresh: float = number(0.1, lambda score: 0 <= score < 1, "a score from 0 to below 1")
    # Background of the working set that scores below this in a sweep is dropped, as easy examples
    # are in Felzenszwalb et al. 2010. 0: nothing is, the set only grows.
    keep_thresh: float = number(0.0, lambda score: 0 <= score < 1, "a score from 0 to below 1")
    # At most so many false positives of an image are added in a sweep, those with the highest
    # scores. 0: all.
    max_per_image: int = whole(100, 0)

    def __post_init__(self) -> None:
        super().__post_init__()
        allowed = f"from 0 to SCORE_THRESH, which is {self.score_thresh}, so that what is added "
        holds = self.keep_thresh <= self.score_thresh
        self.require("keep_thresh", holds, allowed + "is not dropped")

    @classmethod
    def from_cfg(cls, cfg: CfgNode) -> "BootstrapSettings":
        """Raises ValueError also if there are more rounds than iterations."""
        settings, most = super().from_cfg(cfg), cfg.SOLVER.MAX_ITER
        allowed = f"up to SOLVER.MAX_ITER, which is {most}"
        settings.require("rounds", settings.rounds <= most, allowed)
        return settings


@dataclasses.dataclass(frozen=True)
class TrainingLoss(Settings):
    NODE = "TRAINING_LOSS"

    # Every so many iterations, from before the first to after the last, the loss over all RoIs of
    # the training set is taken. 0: never.
    period: int = whole(0, 0)
    # So many images, spread evenly over the data set, instead of all. 0: all.
    num_images: int = whole(0, 0)
