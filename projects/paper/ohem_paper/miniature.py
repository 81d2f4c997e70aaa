"""Data and proposals for Table 1 in miniature."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ohem_d2.files import write_atomically
from projects.tree_crowns import prepare_data

from .proposals import making
from .table.rows import PROJECT, on_data

CONFIGS = PROJECT / "configs/mini"

STEP = 160  # pixels between the corners of training tiles, of which the demo has twice as many
# Of DeepPCB's 1,000 and 500 images, for the sake of time; spread evenly
PCB_IMAGES = {"train": 250, "test": 167}
PCB_SIZE = ["INPUT.MIN_SIZE_TRAIN", "(480,)", "INPUT.MIN_SIZE_TEST", "480"]
QUICK_SCHEDULE = ["SOLVER.MAX_ITER", "4", "SOLVER.STEPS", "(3,)", "SOLVER.CHECKPOINT_PERIOD", "2"]
QUICK_IMAGES = 6


def prepare_tree_crowns(folder: Path, quick: bool, workers: int) -> list[str]:
    """
    Make what is missing of the data and its proposals.

    Args:
        quick: a few images.
        workers: processes of the search.

    Returns:
        the overrides that name it.
    """
    prepare_data.prepare(prepare_data.DATA)

    def wide(image: dict) -> bool:
        x, y = map(int, Path(image["file_name"]).stem.split("_")[-2:])
        return x % STEP == y % STEP == 0

    overrides = []
    for split, keep in (("train", wide), ("test", lambda image: True)):
        file, proposals = folder / f"{split}.json", folder / f"{split}.pkl"
        source = prepare_data.DATA / f"{split}.json"
        write_subset(source, file, keep, QUICK_IMAGES if quick else None)
        name = f"coco:{file}:{prepare_data.DATA / 'tiles'}"
        if not proposals.exists():
            limits = {"min_size": 8, "max_proposals": 1000}
            making.by_selective_search(name, proposals, workers=workers, **limits)
        overrides += on_data(split.upper(), [name], [str(proposals)])
    return overrides


def prepare_deeppcb(source: Path, folder: Path, quick: bool) -> list[str]:
    """
    The same for DeepPCB; trains a region proposal network first.

    Raises:
        FileNotFoundError: if something is missing in the folder ``source``.
    """
    prepare_data.prepare(prepare_data.DATA)  # the trunk's weights
    names = {}
    for split, num in PCB_IMAGES.items():
        file, annotations = folder / f"{split}.json", source / f"instances_{split}.json"
        if not annotations.exists():
            raise FileNotFoundError(f"--deeppcb {source}: {annotations} does not exist")
        write_subset(annotations, file, lambda image: True, QUICK_IMAGES if quick else num)
        names[split] = f"coco:{file}:{source / 'images'}"
    weights, config = folder / "rpn.pth", str(CONFIGS / "rpn.yaml")
    if not weights.exists():
        schedule = QUICK_SCHEDULE if quick else ()
        train_rpn(config, folder / "rpn", ["DATASETS.TRAIN", f"('{names['train']}',)", *schedule])
        # The last checkpoint that was written whole, which model_final.pth is not after a kill
        last = (folder / "rpn" / "last_checkpoint").read_text()
        os.replace(folder / "rpn" / last, weights)
    overrides = []
    for split, name in names.items():
        proposals = folder / f"{split}.pkl"
        if not proposals.exists():
            making.by_rpn(name, proposals, config_file=config, weights=str(weights), opts=PCB_SIZE)
        overrides += on_data(split.upper(), [name], [str(proposals)])
    return overrides


def train_rpn(config: str, output: Path, overrides: Sequence[str]) -> None:
    command = [sys.executable, "-W", "ignore", str(PROJECT / "train.py"), "--resume"]
    command += ["--config-file", config, "OUTPUT_DIR", str(output), *PCB_SIZE, *overrides]
    subprocess.run(command, check=True)


def write_subset(source: Path, target: Path, keep: Callable[[dict], bool], num: int | None) -> None:
    """COCO JSON of the images that are kept, ``num`` of them spread evenly (None: all)."""
    coco = json.loads(source.read_text())
    images = [image for image in coco["images"] if keep(image)]
    if num is not None:
        images = images[:: max(len(images) // num, 1)][:num]
    ids = {image["id"] for image in images}
    coco["images"] = images
    coco["annotations"] = [a for a in coco["annotations"] if a["image_id"] in ids]
    write_atomically(target, json.dumps(coco))
