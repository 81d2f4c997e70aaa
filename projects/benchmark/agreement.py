"""
Screening: how many of the RoIs that OHEM mines does a cheap stand-in for the box head find, and
what does it cost? On tiles of the tree crowns and checkpoints of that project's training. ::

    export PYTHONPATH=.
    python projects/tree_crowns/demo.py --output output/screening SOLVER.CHECKPOINT_PERIOD 250
    python projects/benchmark/agreement.py output/screening/model_*.pth

Each stand-in ranks the 2,000 or so RoIs of a tile; those with the highest ranking, k x B/N of them,
are then scored exactly and selected from. The agreement is the share of the RoIs mined without
screening that are mined with it too.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import DatasetCatalog
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage
from torch import nn
from torch.nn import functional as F

from ohem_d2 import CrowdDatasetMapper, per_roi_losses, select_hard_examples
from ohem_d2.mining.screening import coarse_head, coarse_pooler
from projects.tree_crowns import prepare_data
from projects.tree_crowns.trainer import TreeTrainer, setup

MULTIPLES = (1.5, 2.0, 2.5, 3.0)
Maps = list[torch.Tensor]
StandIn = Callable[[Maps, Instances], torch.Tensor]  # ranking of the RoIs


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Agreement of screening; see the file's head.")
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--budget", type=int, default=128, help="B/N (default: %(default)s)")
    parser.add_argument("--rois", type=int, default=2000)
    parser.add_argument("--tiles", type=int, default=20)
    args = parser.parse_args(argv)
    overrides = ["MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", args.budget]
    overrides += ["MODEL.RPN.PRE_NMS_TOPK_TRAIN", 2 * args.rois]
    overrides += ["MODEL.RPN.POST_NMS_TOPK_TRAIN", args.rois]
    output = prepare_data.ROOT / "output/agreement"
    cfg = setup("ohem.yaml", prepare_data.DATA, output, 1, overrides)
    model = TreeTrainer.build_model(cfg).train()
    for checkpoint in args.checkpoints:
        DetectionCheckpointer(model).load(str(checkpoint))
        heads = model.roi_heads
        tiles = [rois_of(model, inputs) for inputs in tiles_of(cfg, args.tiles)]
        with torch.no_grad():
            print(table(checkpoint.name, heads, tiles, args.budget))


def tiles_of(cfg, num: int) -> list[dict]:
    """Training tiles with several crowns, as they are."""
    mapper = CrowdDatasetMapper(cfg, is_train=True, augmentations=[])
    records = [r for r in DatasetCatalog.get(cfg.DATASETS.TRAIN[0]) if len(r["annotations"]) >= 5]
    return [mapper(record) for record in records[:: max(len(records) // num, 1)][:num]]


@torch.no_grad()
def rois_of(model: nn.Module, inputs: dict) -> tuple[Maps, Instances]:
    """The feature maps of a tile and its candidates, labelled."""
    heads, found = model.roi_heads, []
    hard = heads._hard

    def record(rois, candidates, stage=0):
        found.append((rois[0], candidates[0]))
        return hard(rois, candidates, stage)

    heads._hard = record
    with EventStorage(10**6):  # long after any warm-up
        images = model.preprocess_image([inputs])
        features = model.backbone(images.tensor)
        targets = [inputs["instances"].to(model.device)]
        proposals, _ = model.proposal_generator(images, features, targets)
        logits = proposals[0].objectness_logits
        heads(images, features, proposals, targets)
    del heads._hard
    ((rois, candidates),) = found
    # Boxes of the ground truth come last, and have no objectness.
    rois.objectness = F.pad(logits, (0, len(rois) - len(logits)), value=float("inf"))
    return [features[f] for f in heads.box_in_features], rois[candidates]


def stand_ins(heads: nn.Module) -> dict[str, StandIn]:
    head, predictor, side = heads.box_head, heads.box_predictor, heads.box_pooler.output_size[0]
    first = next(m for m in head.modules() if isinstance(m, nn.Linear))

    def ranking(predictions, rois: Instances) -> torch.Tensor:
        return heads._ranking(per_roi_losses(predictor, predictions, [rois]))

    def pooled(maps: Maps, rois: Instances, bins: int, samples: int) -> torch.Tensor:
        pooler = coarse_pooler(heads.box_pooler, bins)
        for level in pooler.level_poolers:
            level.sampling_ratio = samples
        return pooler(maps, [rois.proposal_boxes])

    def exact(maps, rois):
        pooled = heads.box_pooler(maps, [rois.proposal_boxes])
        return ranking(predictor(head(pooled)), rois)

    def in_bfloat16(maps, rois):
        with torch.autocast(maps[0].device.type, dtype=torch.bfloat16):
            return exact(maps, rois)

    def coarse(bins: int, samples: int) -> StandIn:
        small = coarse_head(head, side, bins)
        return lambda maps, rois: ranking(predictor(small(pooled(maps, rois, bins, samples))), rois)

    def low_rank(rank: int) -> StandIn:
        u, s, v = torch.svd_lowrank(first.weight, q=rank, niter=2)
        down, up = v * s, u.T.contiguous()

        def score(maps, rois):
            x = pooled(maps, rois, side, 1).flatten(1) @ down @ up + first.bias
            for layer in list(head)[2:]:  # after flattening and the first layer
                x = layer(x)
            return ranking(predictor(x), rois)

        return score

    found: dict[str, StandIn] = {"exact": exact, "bfloat16": in_bfloat16}
    found |= {
        f"{bins} x {bins} bins, {samples or 'all'} sample{'s' * (samples != 1)}": coarse(
            bins, samples
        )
        for bins in (3, 4, 5)
        for samples in (1, 0)
    }
    found["all bins, 1 sample"] = lambda maps, rois: ranking(
        predictor(head(pooled(maps, rois, side, 1))), rois
    )
    found |= {
        f"all bins, 1 sample, first layer of rank {rank}": low_rank(rank) for rank in (16, 64)
    }
    found["objectness"] = lambda maps, rois: rois.objectness
    return found


def table(name: str, heads: nn.Module, tiles: list[tuple[Maps, Instances]], budget: int) -> str:
    times: dict[str, list[float]] = {}
    direct: dict[str, list[float]] = {}  # selected by the stand-in's own ranking
    agreements: dict[str, dict[float, list[float]]] = {}
    for maps, rois in tiles:
        reference = None
        for stand_in, score in stand_ins(heads).items():
            start = time.perf_counter()
            ranking = score(maps, rois)
            times.setdefault(stand_in, []).append(time.perf_counter() - start)
            if reference is None:
                losses, reference = ranking, select(ranking, rois, budget)
            direct.setdefault(stand_in, []).append(share(select(ranking, rois, budget), reference))
            for k in MULTIPLES:
                promising = ranking.argsort(descending=True)[: round(k * budget)]
                mined = promising[select(losses[promising], rois[promising], budget)]
                by_k = agreements.setdefault(stand_in, {})
                by_k.setdefault(k, []).append(share(mined, reference))
    rows = [
        f"{name}: {len(tiles)} tiles, {statistics.mean(len(r) for _, r in tiles):.0f} RoIs a tile, "
        f"B/N = {budget}; agreement in %, mean over the tiles",
        "",
        "| stand-in | time / exact | its own choice | "
        + " | ".join(f"k = {k}" for k in MULTIPLES)
        + " |",
        "|---|---|---|" + "---|" * len(MULTIPLES),
    ]
    for stand_in, taken in times.items():
        cells = [f"{statistics.median(a / b for a, b in zip(taken, times['exact'])):.2f}"]
        for values in (direct[stand_in], *agreements[stand_in].values()):
            cells.append(f"{100 * statistics.mean(values):.1f}")
        rows.append(f"| {stand_in} | " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def select(ranking: torch.Tensor, rois: Instances, budget: int) -> torch.Tensor:
    return select_hard_examples(ranking, rois.proposal_boxes.tensor, rois.gt_classes, budget)


def share(mined: torch.Tensor, reference: torch.Tensor) -> float:
    return torch.isin(reference, mined).float().mean().item()


if __name__ == "__main__":
    main()
