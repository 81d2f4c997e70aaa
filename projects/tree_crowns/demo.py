"""
Train a Faster R-CNN with OHEM on aerial photographs, and beside it the same one with random
sampling; test both on photographs of other places, say what OHEM changed, and draw it, and what was
mined. ::

    PYTHONPATH=. python projects/tree_crowns/demo.py [--output FOLDER] [--alone] [KEY VALUE ...]
"""

import argparse
import contextlib
import io
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from subprocess import PIPE, STDOUT, Popen

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import read_image
from pycocotools.coco import COCO

from ohem_d2 import CrowdDatasetMapper
from ohem_d2.monitor.pictures import draw_mining
from ohem_d2.tools import runs
from ohem_d2.tools.drawing import encode
from ohem_d2.tools.explain import mine
from ohem_d2.tools.files import write_atomically
from ohem_d2.tools.training.run_folder import claim
from projects.tree_crowns import differences, prepare_data
from projects.tree_crowns.trainer import setup, train

METRICS = ("AP", "AP50", "AP75")
RANDOM = "--random-sampling"  # the first argument of the process that trains with it
ZOOM = 2.0


def main() -> None:
    parser = argparse.ArgumentParser(description="Train, test and draw; see the file's head.")
    add = parser.add_argument
    add("--output", type=Path, default=prepare_data.ROOT / "output/tree_crowns")
    add("--data", type=Path, default=prepare_data.DATA)
    add("--seed", type=int, default=1)
    add("--alone", action="store_true", help="without random sampling beside OHEM")
    add("overrides", nargs="*", metavar="KEY VALUE")
    args = parser.parse_args()
    start = time.monotonic()
    claim(args.output, overwrite=True)
    for pictures in ("detections", "mined"):  # which are not of this run
        shutil.rmtree(args.output / pictures, ignore_errors=True)
    cfg = setup("ohem.yaml", args.data, args.output, args.seed, args.overrides)
    folder, beside = args.output / "random_sampling", None
    if not args.alone:
        given = [str(args.data), str(folder), str(args.seed), *args.overrides]
        beside = start_beside([sys.executable, "-W", "ignore", __file__, RANDOM, *given], folder)
    trainer = train(cfg)
    runs.write_result(args.output, trainer.last_results["bbox"])
    if beside and beside.wait():
        raise SystemExit(f"The training with random sampling failed; see {folder / 'output.txt'}")
    compared = {"OHEM": args.output} | ({"random sampling": folder} if beside else {})
    draw_mined(cfg, trainer.model, args.output / "mined")
    minutes = (time.monotonic() - start) / 60
    print(f"\nOn photographs of other places, after {minutes:.1f} minutes:\n")
    print("\n".join(compare(cfg, compared, args.output / "detections")))
    print(f"\ncheckpoint  {args.output / 'model_final.pth'}")
    print(f"metrics     {args.output / 'metrics.json'}")
    print(f"pictures    {args.output / 'detections'}, {args.output / 'mined'}")


def start_beside(command: Sequence[str], folder: Path) -> Popen:
    """A process that ends when this one does, with half of the cores; its log is output.txt."""
    threads = max((os.cpu_count() or 1) // 2, 1)
    torch.set_num_threads(threads)
    folder.mkdir(exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    print(f"Random sampling is trained beside OHEM; its log is {folder / 'output.txt'}")
    with open(folder / "output.txt", "w") as log:
        return Popen(command, stdin=PIPE, stdout=log, stderr=STDOUT, env=environment)


def train_random(data: str, folder: str, seed: str, *overrides: str) -> None:
    runs.end_with_parent()
    claim(folder, overwrite=True)
    trainer = train(setup("random.yaml", Path(data), Path(folder), int(seed), overrides))
    runs.write_result(folder, trainer.last_results["bbox"])


def compare(cfg: CfgNode, compared: dict[str, Path], folder: Path) -> list[str]:
    """
    Draw what runs, whose folders are by name, find on test tiles, those first where they differ the
    most. Returns the lines that say what the difference is.
    """
    test = cfg.DATASETS.TEST[0]
    records = {record["image_id"]: record for record in DatasetCatalog.get(test)}
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(MetadataCatalog.get(test).json_file)
    num = sum(not a["iscrowd"] for a in truth.anns.values())
    rows, found = [], {}
    for name, run in compared.items():
        best = differences.best_detections(differences.read_detections(run), num)
        images = found[name] = differences.found(truth, best)
        result = json.loads((run / "result.json").read_text())
        right = sum(len(f.right) for f in images.values())
        wrong = sum(len(f.wrong) for f in images.values())
        rows.append([name, *(f"{result[key]:.1f}" for key in METRICS), f"{right}", f"{wrong}"])
    ohem, other = list(found.values())[0], list(found.values())[-1]
    for image in differences.most_different(ohem, other, len(ohem)) or ohem:
        record = records[image]
        photograph = read_image(record["file_name"], "RGB")
        sides = [differences.draw(photograph, n, f[image], ZOOM) for n, f in found.items()]
        write(folder / Path(record["file_name"]).name, differences.beside(sides))
    lines = runs.markdown_table(["", *METRICS, f"of {num} crowns", "false alarms"], rows)
    if other is ohem:
        return lines
    pairs = (ohem, other), (other, ohem)
    only, lost = (sum(len(a[i].objects - b[i].objects) for i in a) for a, b in pairs)
    return [
        *(*lines, ""),
        f"Of the {num} best scored boxes of each, OHEM's find {only} crowns that those of random",
        f"sampling miss, and miss {lost} that those find: see the pictures. This is one seed;",
        "another moves AP50 by two points or more. docs/does-it-help.md has more seeds and data.",
    ]


def draw_mined(cfg: CfgNode, model: torch.nn.Module, folder: Path, num: int = 4) -> list[Path]:
    """For a few training tiles: which RoIs OHEM mines among all proposals."""
    model.train()
    mapper = CrowdDatasetMapper(cfg, is_train=True, augmentations=[])
    records = [r for r in DatasetCatalog.get(cfg.DATASETS.TRAIN[0]) if len(r["annotations"]) >= 8]
    paths = []
    for record in records[:: max(len(records) // num, 1)][:num]:
        (mining,) = mine(model, mapper(record))
        picture = draw_mining(mining, read_image(record["file_name"], "RGB"))
        paths.append(write(folder / Path(record["file_name"]).name, picture))
    return paths


def write(path: Path, picture: np.ndarray) -> Path:
    write_atomically(path, encode(picture, path.suffix))
    return path


if __name__ == "__main__":
    train_random(*sys.argv[2:]) if sys.argv[1:2] == [RANDOM] else main()
