"""Data and proposals for Table 1 in miniature."""

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from ohem_d2.tools.files import write_atomically
from projects.tree_crowns import prepare_data

from .proposals import making
from .rows import PROJECT, on_data

CONFIGS = PROJECT / "configs/mini"

STEP = 160  # pixels between the corners of training tiles, of which the demo has twice as many
# Of DeepPCB's 1,000 and 500 images, for the sake of time; spread evenly
PCB_IMAGES = {"train": 250, "test": 167}
PCB_SIZE = ["INPUT.MIN_SIZE_TRAIN", "(480,)", "INPUT.MIN_SIZE_TEST", "480"]
QUICK_SCHEDULE = ["SOLVER.MAX_ITER", "4", "SOLVER.STEPS", "(3,)", "SOLVER.CHECKPOINT_PERIOD", "2"]
QUICK_IMAGES = 6


def prepare_tree_crowns(folder: Path, quick: bool, workers: int) -> list[str]:
    """
    Make what is missing of the data and its proposals, of a few images if ``quick``, by so many
    processes. Returns the overrides that name it.
    """
    prepare_data.prepare(prepare_data.DATA)
    limits = {"workers": workers, "min_size": 8, "max_proposals": 1000}
    search = functools.partial(making.by_selective_search, **limits)

    def wide(image: dict) -> bool:
        x, y = map(int, Path(image["file_name"]).stem.split("_")[-2:])
        return x % STEP == y % STEP == 0

    overrides = []
    for split, keep in (("train", wide), ("test", lambda image: True)):
        file, tiles = folder / f"{split}.json", prepare_data.DATA / "tiles"
        num = QUICK_IMAGES if quick else None
        write_subset(prepare_data.DATA / file.name, file, keep, num)
        overrides += with_proposals(f"coco:{file}:{tiles}", file, search)
    return overrides


def prepare_deeppcb(source: Path, folder: Path, quick: bool) -> list[str]:
    """
    The same for DeepPCB in the folder ``source``; trains a region proposal network first. Raises
    FileNotFoundError if something is missing there.
    """
    prepare_data.prepare(prepare_data.DATA)  # the trunk's weights
    names = {}
    for split, num in PCB_IMAGES.items():
        file, annotations = folder / f"{split}.json", source / f"instances_{split}.json"
        if not annotations.exists():
            raise FileNotFoundError(f"--deeppcb {source}: {annotations} does not exist")
        write_subset(annotations, file, lambda image: True, QUICK_IMAGES if quick else num)
        names[file] = f"coco:{file}:{source / 'images'}"
    weights, config, runs = folder / "rpn.pth", str(CONFIGS / "rpn.yaml"), folder / "rpn"
    if not weights.exists():
        command = [sys.executable, "-W", "ignore", str(PROJECT / "train.py"), "--resume"]
        command += ["--config-file", config, "OUTPUT_DIR", str(runs), *PCB_SIZE]
        command += ["DATASETS.TRAIN", f"('{names[folder / 'train.json']}',)"]
        subprocess.run([*command, *(QUICK_SCHEDULE if quick else ())], check=True)
        # The last checkpoint that was written whole, which model_final.pth is not after a kill
        os.replace(runs / (runs / "last_checkpoint").read_text(), weights)
    limits = {"config_file": config, "weights": str(weights), "opts": PCB_SIZE}
    propose = functools.partial(making.by_rpn, **limits)
    return [word for file, name in names.items() for word in with_proposals(name, file, propose)]


def with_proposals(name: str, file: Path, make: Callable[[str, Path], None]) -> list[str]:
    """Overrides: the data set of a split, whose annotations the file has, and its proposals."""
    proposals = file.with_suffix(".pkl")
    if not proposals.exists():
        make(name, proposals)
    return on_data(file.stem.upper(), [name], [str(proposals)])


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
