"""What is compared: data sets, and tables of variants."""

import dataclasses
from pathlib import Path

from projects.tree_crowns import prepare_data

CONFIGS = Path(__file__).resolve().parent / "configs"


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set in COCO format."""

    folder: str
    train: str = "instances_train.json"
    test: str = "instances_test.json"
    images: str = "images"
    #: images without objects, in which all that is found is a false alarm
    train_negatives: str = ""
    test_negatives: str = ""
    negatives: str = ""  #: their folder

    def named(self, file: str, images: str) -> str:
        """The data set in the form of ``--train-data``."""
        return f"coco:{Path(self.folder, file)}:{Path(self.folder, images)}"


TEMPLATES = ("templates_train.json", "templates_test.json", "templates")
DATA = {
    "boards": Data("", "instances_train.json", "instances_test.json", "images", *TEMPLATES),
    "plates": Data(""),
    "trees": Data(str(prepare_data.DATA), "train.json", "test.json", "tiles"),
}


@dataclasses.dataclass(frozen=True)
class Setup:
    """What a variant adds to the recipe of a data set."""

    overrides: str = ""  #: KEY VALUE ...
    missing: float = 0.0  #: this share of the training boxes is removed, by seed
    with_negatives: bool = False  #: train on images without objects, too


HEADS = "MODEL.ROI_HEADS"
RANDOM = f"{HEADS}.NAME StandardROIHeads"
# As in `configs/`: random sampling while the learning rate warms up, here for a tenth
OHEM = f"{HEADS}.NAME OHEMROIHeads {HEADS}.OHEM.WARMUP_ITERS 40"
SETTING = f"{OHEM} {HEADS}.OHEM."
QUOTA = f"{SETTING}BUDGET quota"
# Lengths of a training. The rate falls after four fifths, as in the recipes.
TWICE = "SOLVER.MAX_ITER 800 SOLVER.STEPS (640,)"
LONG = "SOLVER.MAX_ITER 1600 SOLVER.STEPS (1280,)"
LONGEST = "SOLVER.MAX_ITER 3200 SOLVER.STEPS (2560,)"
BETA_0 = "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA 0.0"


def both(iterations: str, warmup: int) -> dict[str, Setup]:
    """Random sampling and OHEM on another schedule."""
    ohem = Setup(f"{SETTING}WARMUP_ITERS {warmup} {iterations}")
    return {"random 128": Setup(f"{RANDOM} {iterations}"), "OHEM 128": ohem}


# For each table the variants by name. The first one is what the others are compared with.
TABLES = {
    "main": {
        "random 128": Setup(RANDOM),
        "random 512": Setup(f"{RANDOM} {HEADS}.BATCH_SIZE_PER_IMAGE 512"),
        "OHEM 128": Setup(OHEM),
        "quota 128": Setup(QUOTA),
        # the RoIs that its OHEMSampler chooses, see projects/benchmark/against_mmdetection.py
        "mmdetection's 128": Setup(
            f"{QUOTA} {HEADS}.OHEM.NMS_SCOPE none {HEADS}.OHEM.RANK_LOC_WEIGHT 0.0"
        ),
    },
    "800 iterations": both(TWICE, 80),
    "1600 iterations": both(LONG, 160),
    "3200 iterations": both(LONGEST, 320),
    "references": {
        "random 128": Setup(RANDOM),
        "OHEM 128": Setup(OHEM),
        "focal loss 512": Setup(f"{HEADS}.NAME FocalROIHeads {HEADS}.BATCH_SIZE_PER_IMAGE 512"),
    },
    "settings": {
        "OHEM 128": Setup(OHEM),
        "no warm-up": Setup(f"{SETTING}WARMUP_ITERS 0"),
        "warm-up of a fifth": Setup(f"{SETTING}WARMUP_ITERS 80"),
        "OHEM 64": Setup(f"{OHEM} {HEADS}.BATCH_SIZE_PER_IMAGE 64"),
        "OHEM 256": Setup(f"{OHEM} {HEADS}.BATCH_SIZE_PER_IMAGE 256"),
        "beta 0": Setup(f"{OHEM} {BETA_0}"),
        # Is it the ranking by an L1 loss that costs, or the training with it?
        "beta 0, RANK_LOC_WEIGHT 0.1": Setup(f"{SETTING}RANK_LOC_WEIGHT 0.1 {BETA_0}"),
        "beta 0, random 128": Setup(f"{RANDOM} {BETA_0}"),
        "RANK_LOC_WEIGHT 0.1": Setup(f"{SETTING}RANK_LOC_WEIGHT 0.1"),
        "RANK_LOC_WEIGHT 0": Setup(f"{SETTING}RANK_LOC_WEIGHT 0.0"),
        "NMS_SCOPE agnostic": Setup(f"{SETTING}NMS_SCOPE agnostic"),
        "NMS_SCOPE none": Setup(f"{SETTING}NMS_SCOPE none"),
    },
    **{
        f"missing {percent} %": {
            "random 128": Setup(RANDOM, missing=percent / 100),
            "OHEM 128": Setup(OHEM, missing=percent / 100),
        }
        for percent in (20, 40)
    },
    "negatives": {
        "random 128": Setup(RANDOM),
        "OHEM 128": Setup(OHEM),
        "random 128, negatives": Setup(RANDOM, with_negatives=True),
        "OHEM 128, negatives": Setup(OHEM, with_negatives=True),
        # Half of the images have no objects, so twice the iterations see as many with objects.
        "random 128, negatives, 800": Setup(f"{RANDOM} {TWICE}", with_negatives=True),
        "OHEM 128, negatives, 800": Setup(f"{SETTING}WARMUP_ITERS 80 {TWICE}", with_negatives=True),
    },
}
