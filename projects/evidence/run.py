"""One run: a detector is trained and tested, and what it finds where nothing is, is counted."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
from detectron2.data import build_detection_test_loader
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset
from pycocotools.coco import COCO

from ohem_d2.tools import runs
from ohem_d2.tools.data.datasets import register_datasets
from ohem_d2.tools.files import write_atomically
from projects import focal  # noqa: F401  registers heads
from projects.evidence import iou_balanced  # noqa: F401  registers heads
from projects.evidence.experiments import CONFIGS, Data
from projects.evidence.tables import METRICS
from projects.tree_crowns import prepare_data
from projects.tree_crowns.differences import evaluated
from projects.tree_crowns.trainer import setup, train

RECALL = 0.8  # false alarms are counted at the score that finds so many of the objects


def main(arguments: str) -> None:
    """``arguments`` are JSON, see ``variant_of`` in evidence.py."""
    runs.end_with_parent()
    given = json.loads(arguments)
    data, folder = Data(**given["files"]), Path(given["folder"])
    began_with = folder / "commit"  # of a run that goes on, too
    if not began_with.exists():
        write_atomically(began_with, commit())
    train_sets = [data.named(data.train, data.images)]
    if share := given["others"].get("missing"):
        full = json.loads(Path(data.folder, data.train).read_text())
        less = json.dumps(without_boxes(full, share, given["seed"]))
        write_atomically(folder / "train.json", less)
        train_sets = [f"coco:{folder / 'train.json'}:{Path(data.folder, data.images)}"]
    if given["others"].get("with_negatives"):
        train_sets.append(data.named(data.train_negatives, data.negatives))
    overrides = [
        *("DATASETS.TRAIN", str(tuple(train_sets))),
        *("DATASETS.TEST", str((data.named(data.test, data.images),))),
        *("DATALOADER.FILTER_EMPTY_ANNOTATIONS", str(len(train_sets) == 1)),
        *("MODEL.DEVICE", given["device"]),
        *given["overrides"],
    ]
    config = str(CONFIGS / f"{given['data']}.yaml")
    cfg = setup(config, prepare_data.DATA, folder, given["seed"], overrides)
    trainer = train(cfg, resume=True)
    results = trainer.last_results["bbox"]
    record = {key: given[key] for key in ("data", "variant", "overrides", "settings", "seed")}
    record |= given["others"]
    record |= {"commit": began_with.read_text(), "iterations": cfg.SOLVER.MAX_ITER}
    record |= {key: round(float(np.nan_to_num(results[key])), 2) for key in METRICS}
    if data.test_negatives:
        negatives = data.named(data.test_negatives, data.negatives)
        register_datasets([negatives])
        loader = build_detection_test_loader(cfg, negatives)
        scores = inference_on_dataset(trainer.model, loader, Scores())["scores"]
        found = Path(cfg.OUTPUT_DIR, "inference", "coco_instances_results.json")
        # A detector that never finds so many has no such number.
        if threshold := score_that_finds(Path(data.folder, data.test), found, RECALL):
            num = np.mean([(s >= threshold).sum() for s in scores])
            record["false_alarms"] = round(num.item(), 3)
    seconds = runs.seconds_per_iteration(runs.read_metrics(folder))
    if not math.isnan(seconds):  # a run of a few iterations
        record["seconds"] = round(seconds, 3)
    runs.write_result(folder, record)


def without_boxes(coco: dict, share: float, seed: int) -> dict:
    """Annotations in COCO format less a share of the boxes; the same ones of a seed."""
    boxes = coco["annotations"]
    gone = np.random.default_rng(seed).permutation(len(boxes))[: round(share * len(boxes))]
    gone = set(gone.tolist())
    return {**coco, "annotations": [box for i, box in enumerate(boxes) if i not in gone]}


class Scores(DatasetEvaluator):
    """The scores of what is found in each image."""

    def reset(self) -> None:
        self._scores: list[np.ndarray] = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        self._scores += [output["instances"].scores.cpu().numpy() for output in outputs]

    def evaluate(self) -> dict:
        return {"scores": self._scores}


def score_that_finds(truth: Path, found: Path, recall: float) -> float:
    """
    The score above which a detector finds this share of the objects, of whatever class, at an IoU
    of 0.5; 0.0 if it never does. ``truth`` and ``found`` are in COCO format.
    """
    evaluation = evaluated(COCO(str(truth)), json.loads(found.read_text()), iou=0.5)
    evaluation.params.recThrs = np.array([recall])
    evaluation.accumulate()
    return evaluation.eval["scores"][0, 0, 0, 0, -1].item()


def commit() -> str:
    """The commit of this clone; empty outside of one, and where there is no git."""
    command = ["git", "-C", str(CONFIGS), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:
        return ""


if __name__ == "__main__":
    main(sys.argv[1])
