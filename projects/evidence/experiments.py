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
    #: images of the test set's kind without objects, where all that is found is a false alarm
    negatives: tuple[str, str] | None = None  # file and folder

    def named(self, file: str, images: str) -> str:
        """As ``--train-data`` takes it."""
        return f"coco:{Path(self.folder, file)}:{Path(self.folder, images)}"


DATA = {
    "boards": Data("", negatives=("templates_test.json", "templates")),
    "plates": Data(""),
    "trees": Data(str(prepare_data.DATA), "train.json", "test.json", "tiles"),
}

HEADS = "MODEL.ROI_HEADS"
RANDOM = f"{HEADS}.NAME StandardROIHeads"
# As `configs/` have it: random sampling as long as the learning rate warms up, here for a tenth
OHEM = f"{HEADS}.NAME OHEMROIHeads {HEADS}.OHEM.WARMUP_ITERS 40"
SETTING = f"{OHEM} {HEADS}.OHEM."

# Of a table, by name of the variant, what it adds to the recipe: KEY VALUE ... The first one is
# what the others are compared with.
TABLES = {
    "main": {
        "random 128": RANDOM,
        "random 512": f"{RANDOM} {HEADS}.BATCH_SIZE_PER_IMAGE 512",
        "OHEM 128": OHEM,
        "quota 128": f"{HEADS}.NAME QuotaSamplerHeads",
    },
    "settings": {
        "OHEM 128": OHEM,
        "no warm-up": f"{SETTING}WARMUP_ITERS 0",
        "warm-up of a fifth": f"{SETTING}WARMUP_ITERS 80",
        "OHEM 64": f"{OHEM} {HEADS}.BATCH_SIZE_PER_IMAGE 64",
        "OHEM 256": f"{OHEM} {HEADS}.BATCH_SIZE_PER_IMAGE 256",
        "beta 0": f"{OHEM} MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA 0.0",
        "RANK_LOC_WEIGHT 0.1": f"{SETTING}RANK_LOC_WEIGHT 0.1",
        "RANK_LOC_WEIGHT 0": f"{SETTING}RANK_LOC_WEIGHT 0.0",
        "NMS_SCOPE agnostic": f"{SETTING}NMS_SCOPE agnostic",
        "NMS_SCOPE none": f"{SETTING}NMS_SCOPE none",
        "BUDGET batch": f"{SETTING}BUDGET batch",
        "MAX_FG_FRACTION 0.25": f"{SETTING}MAX_FG_FRACTION 0.25",
    },
}
