"""One run of a comparison, in a process of its own: train, test, write ``result.json``."""

import json
import math
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog, build_detection_test_loader
from detectron2.evaluation import inference_context
from detectron2.utils.logger import setup_logger
from pycocotools.coco import COCO
from torch import nn

from .. import runs
from ..data.datasets import register_datasets
from ..data.evaluation import labels_file
from ..errors import errors_in_one_line
from ..load_model import default_cfg
from ..trust import merge_file, trusting
from .detections import score_that_finds
from .proxy import trainer_for

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
RECALL = 0.8  # false alarms are counted at the score that finds this share of objects


def main(text: str) -> None:
    """``text`` is JSON: ``folder``, which has the run's ``given.yaml``, ``seed``, ``device`` ..."""
    runs.end_with_parent()
    given = json.loads(text)
    folder, cfg = Path(given["folder"]), default_cfg(given["modules"])
    merge_file(cfg, folder / "given.yaml")
    cfg.OUTPUT_DIR, cfg.SEED, cfg.MODEL.DEVICE = str(folder), given["seed"], given["device"]
    register_datasets((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST), given["classes"])
    cfg.freeze()
    for name in ("detectron2", "fvcore"):
        setup_logger(cfg.OUTPUT_DIR, name=name)
    runs.write_atomically(folder / "config.yaml", cfg.dump())
    trainer = trainer_for(cfg)(cfg)
    trainer.resume_or_load(resume=True)
    trainer.train()
    result = results_of(cfg, trainer.last_results["bbox"])
    if given["negatives"]:
        alarms = false_alarms(cfg, trainer.model, given["negatives"])
        result |= {} if math.isnan(alarms) else {"false_alarms": alarms}
    runs.write_result(folder, result)


def results_of(cfg: CfgNode, found: dict[str, float]) -> dict[str, Any]:
    """The results of a finished run, in percent. A run that found nothing has 0, not NaN."""
    records = runs.read_metrics(cfg.OUTPUT_DIR)
    nothing = math.isnan(found["AP"])  # else NaN stands for sizes and classes that do not occur
    # Detectron2 leaves classes out if there is only one, or if nothing was found.
    names = MetadataCatalog.get(cfg.DATASETS.TEST[0]).thing_classes
    classes = {name: found.get(f"AP-{name}", found["AP"]) for name in names}
    last = cfg.SOLVER.MAX_ITER
    curve = {r["iteration"] + 1: r["bbox/AP"] for r in records if "bbox/AP" in r}
    curve = {i: ap for i, ap in curve.items() if i < last} | {last: found["AP"]}
    return {
        **{key: 0.0 if nothing else found[key] for key in METRICS},
        "classes": {name: 0.0 if nothing else ap for name, ap in classes.items()},
        "curve": [[i, 0.0 if math.isnan(ap) else ap] for i, ap in sorted(curve.items())],
        "seconds": runs.seconds_per_iteration(records),
    }


def false_alarms(cfg: CfgNode, model: nn.Module, negatives: str) -> float:
    """Mean detections per image, at the score that finds 80 % of the test objects, or NaN."""
    register_datasets([negatives])
    loader = build_detection_test_loader(cfg, negatives)
    with inference_context(model), torch.no_grad():
        scores = [found["instances"].scores for inputs in loader for found in model(inputs)]
    found = json.loads(Path(cfg.OUTPUT_DIR, "inference/coco_instances_results.json").read_text())
    truth = COCO(labels_file(cfg, cfg.DATASETS.TEST[0]))
    threshold = score_that_finds(truth, found, RECALL)
    counts = [(of_image >= threshold).sum().item() for of_image in scores]
    return statistics.mean(counts) if threshold else math.nan


if __name__ == "__main__":
    with errors_in_one_line("run"), trusting():
        main(sys.argv[1])
