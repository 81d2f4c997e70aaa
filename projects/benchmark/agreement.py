"""
How many of the RoIs that OHEM mines does screening find, with its cheap stand-in for the box head,
and what does it cost? Measured on training images of the demo, with checkpoints of a run. ::

    export PYTHONPATH=.
    python projects/tree_crowns/demo.py SOLVER.CHECKPOINT_PERIOD 80
    python projects/benchmark/agreement.py output/tree_crowns/ohem-128/seed1/model_*.pth
"""

import argparse
import functools
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from detectron2.structures import Instances
from torch import Tensor, nn

from ohem_d2 import CrowdDatasetMapper, per_roi_losses, select_hard_examples
from ohem_d2.mining import screening
from ohem_d2.tools.comparison import proxy  # noqa: F401  registers the demo's backbone
from ohem_d2.tools.data.datasets import register_datasets
from ohem_d2.tools.explain import mine
from ohem_d2.tools.load_model import load_cfg
from ohem_d2.tools.runs import markdown_table
from ohem_d2.tools.training.checkpoints import Checkpointer

MULTIPLES = (1.5, 2.0, 2.5, 3.0)  # of B/N, the values of SCREENING


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Agreement of screening; see the docstring.")
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--budget", type=int, default=128, help="B/N (default: %(default)s)")
    parser.add_argument("--rois", type=int, default=2000)
    parser.add_argument("--tiles", type=int, default=20)
    args = parser.parse_args(argv)
    cfg = load_cfg(str(args.checkpoints[0].with_name("config.yaml")))
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = args.budget
    cfg.MODEL.RPN.PRE_NMS_TOPK_TRAIN, cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = 2 * args.rois, args.rois
    register_datasets(cfg.DATASETS.TRAIN)
    model = build_model(cfg).train()
    # Images with several objects, without augmentation
    mapper = CrowdDatasetMapper(cfg, is_train=True, augmentations=[])
    records = [r for r in DatasetCatalog.get(cfg.DATASETS.TRAIN[0]) if len(r["annotations"]) >= 5]
    records = records[:: max(len(records) // args.tiles, 1)][: args.tiles]
    rows = []
    for checkpoint in args.checkpoints:
        Checkpointer(model).load(str(checkpoint))
        tiles = [rois_of(model, mapper(record)) for record in records]
        rows.append([checkpoint.name, *agreement(model.roi_heads, tiles, args.budget)])
    num = statistics.mean(len(rois) for _, rois in tiles)
    print(f"{len(tiles)} tiles, {num:.0f} RoIs a tile, B/N = {args.budget}\n")
    header = ["checkpoint", "time / exact", *(f"k = {k}, found" for k in MULTIPLES)]
    print("\n".join(markdown_table(header, rows)))


@torch.no_grad()
def rois_of(model: nn.Module, inputs: dict) -> tuple[dict[str, Tensor], Instances]:
    """The feature maps of a tile and its candidates, labelled."""
    (mining,) = mine(model, inputs)
    return model.backbone(model.preprocess_image([inputs]).tensor), mining.rois[0]


@torch.no_grad()
def agreement(heads: nn.Module, tiles: list[tuple], budget: int) -> list[str]:
    """
    The time of the stand-in over that of the box head, and for each of MULTIPLES the share in % of
    the mined RoIs that are still mined when only so many times the budget are scored exactly.
    """
    ratios, shares = [], []
    for maps, rois in tiles:
        times, rankings = [], []
        exact = functools.partial(heads.score_rois, maps)
        for score in (exact, screening.coarse_scorer(heads, maps)):
            start = time.perf_counter()
            predictor, predictions = score([rois])
            rankings.append(heads.rank(per_roi_losses(predictor, predictions, [rois])))
            times.append(time.perf_counter() - start)
        ratios.append(times[1] / times[0])
        losses, stand_in = rankings
        mined = select(losses, rois, budget)
        shares.append([])
        for k in MULTIPLES:
            promising = stand_in.argsort(descending=True)[: round(k * budget)]
            found = promising[select(losses[promising], rois[promising], budget)]
            shares[-1].append(torch.isin(mined, found).float().mean().item())
    means = (f"{100 * statistics.mean(of_k):.1f} %" for of_k in zip(*shares))
    return [f"{statistics.median(ratios):.2f}", *means]


def select(ranking: Tensor, rois: Instances, budget: int) -> Tensor:
    return select_hard_examples(ranking, rois.proposal_boxes.tensor, rois.gt_classes, budget)


if __name__ == "__main__":
    main()
