"""
Train a Faster R-CNN with OHEM on aerial photographs, test it on photographs of other places, and
draw what it finds and what was mined. ::

    PYTHONPATH=. python projects/tree_crowns/demo.py [--output FOLDER] [KEY VALUE ...]
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.data.detection_utils import read_image

from ohem_d2 import CrowdDatasetMapper
from ohem_d2.files import write_atomically
from ohem_d2.monitor.drawing import FOREGROUND, GROUND_TRUTH, draw_boxes, encode, with_caption
from ohem_d2.monitor.pictures import draw_mining
from ohem_d2.tools.explain import mine
from ohem_d2.training.folder import claim
from projects.tree_crowns import prepare_data
from projects.tree_crowns.trainer import TreeTrainer, setup, train

SCORE = 0.5  # detections below this are not drawn
ZOOM = 2.0


def main() -> None:
    parser = argparse.ArgumentParser(description="Train, test and draw; see the file's head.")
    parser.add_argument("--output", type=Path, default=prepare_data.ROOT / "output/tree_crowns")
    parser.add_argument("--data", type=Path, default=prepare_data.DATA)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE")
    args = parser.parse_args()
    start = time.monotonic()
    claim(args.output, overwrite=True)
    cfg = setup("ohem.yaml", args.data, args.output, args.seed, args.overrides)
    trainer = train(cfg)
    results, model = trainer.last_results["bbox"], trainer.model
    pictures = [
        *draw_detections(cfg, model, args.output / "detections"),
        *draw_mined(cfg, model, args.output / "mined"),
    ]
    print(
        f"\nCOCO AP {results['AP']:.1f}, AP50 {results['AP50']:.1f}, AP75 {results['AP75']:.1f} "
        f"on photographs of other places, after {(time.monotonic() - start) / 60:.1f} minutes\n"
        f"checkpoint  {args.output / 'model_final.pth'}\n"
        f"metrics     {args.output / 'metrics.json'}\n"
        f"pictures    {pictures[0].parent}, {pictures[-1].parent}"
    )


def draw_detections(cfg: CfgNode, model: torch.nn.Module, folder: Path) -> list[Path]:
    """For each test tile: what the model finds, beside the crowns drawn by hand."""
    model = TreeTrainer.for_test(cfg, model.eval())
    mapper = DatasetMapper(cfg, is_train=False, augmentations=[])
    paths = []
    for record in DatasetCatalog.get(cfg.DATASETS.TEST[0]):
        image = read_image(record["file_name"], "RGB")
        with torch.no_grad():
            found = model([mapper(record)])[0]["instances"].to("cpu")
        found = found[found.scores >= SCORE].pred_boxes.tensor.numpy()
        drawn = [a["bbox"] for a in record["annotations"] if not a["iscrowd"]]
        truth = np.array(drawn, dtype=float).reshape(-1, 4)
        truth[:, 2:] += truth[:, :2]
        sides = [
            with_caption(draw_boxes(image, boxes, color, scale=ZOOM), caption)
            for boxes, color, caption in (
                (found, FOREGROUND, f"found: {len(found)}, score {SCORE} and above"),
                (truth, GROUND_TRUTH, f"drawn by hand: {len(truth)}"),
            )
        ]
        paths.append(write(folder / Path(record["file_name"]).name, np.concatenate(sides, axis=1)))
    return paths


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
    main()
