"""
Screening: how many of the RoIs that OHEM mines does a cheap stand-in for the box head find, and
what does it cost? On tiles of the tree crowns and checkpoints of that project's training. ::

    export PYTHONPATH=.
    python projects/tree_crowns/demo.py --alone --output output/screening \\
        SOLVER.CHECKPOINT_PERIOD 250
    python projects/benchmark/agreement.py output/screening/model_*.pth

docs/benchmark.md says what the figures are.
"""

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import Instances
from torch import nn

from ohem_d2 import CrowdDatasetMapper, per_roi_losses, select_hard_examples
from ohem_d2.mining.screening import coarse_head, coarse_pooler
from ohem_d2.tools.explain import mine
from ohem_d2.tools.runs import markdown_table
from ohem_d2.tools.training.checkpoints import Checkpointer
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
    # Training tiles with several crowns, as they are
    mapper = CrowdDatasetMapper(cfg, is_train=True, augmentations=[])
    records = [r for r in DatasetCatalog.get(cfg.DATASETS.TRAIN[0]) if len(r["annotations"]) >= 5]
    records = records[:: max(len(records) // args.tiles, 1)][: args.tiles]
    for checkpoint in args.checkpoints:
        Checkpointer(model).load(str(checkpoint))
        tiles = [rois_of(model, mapper(record)) for record in records]
        with torch.no_grad():
            print(table(checkpoint.name, model.roi_heads, tiles, args.budget))


@torch.no_grad()
def rois_of(model: nn.Module, inputs: dict) -> tuple[Maps, Instances]:
    """The feature maps of a tile and its candidates, labelled."""
    (mining,) = mine(model, inputs)
    features = model.backbone(model.preprocess_image([inputs]).tensor)
    return [features[f] for f in model.roi_heads.box_in_features], mining.rois


def stand_ins(heads: nn.Module) -> dict[str, StandIn]:
    head, predictor, side = heads.box_head, heads.box_predictor, heads.box_pooler.output_size[0]

    def stand_in(pooler: Callable, head: Callable) -> StandIn:
        def ranking(maps: Maps, rois: Instances) -> torch.Tensor:
            predictions = predictor(head(pooler(maps, [rois.proposal_boxes])))
            return heads.miner().rank(per_roi_losses(predictor, predictions, [rois]))

        return ranking

    def pooler_of(bins: int, samples: int) -> nn.Module:
        pooler = coarse_pooler(heads.box_pooler, bins)
        for level in pooler.level_poolers:
            level.sampling_ratio = samples
        return pooler

    def of_low_rank(rank: int) -> Callable:
        first = next(m for m in head.modules() if isinstance(m, nn.Linear))
        u, s, v = torch.svd_lowrank(first.weight, q=rank, niter=2)
        down, up = v * s, u.T.contiguous()
        others = nn.Sequential(*list(head)[2:])  # after flattening and the first layer
        return lambda pooled: others(pooled.flatten(1) @ down @ up + first.bias)

    exact = stand_in(heads.box_pooler, head)

    def in_bfloat16(maps: Maps, rois: Instances) -> torch.Tensor:
        with torch.autocast(maps[0].device.type, dtype=torch.bfloat16):
            return exact(maps, rois)

    found: dict[str, StandIn] = {"exact": exact, "bfloat16": in_bfloat16}
    for bins in (3, 4, 5):
        for samples, words in ((1, "1 sample"), (0, "all samples")):
            small = coarse_head(head, side, bins)
            found[f"{bins} x {bins} bins, {words}"] = stand_in(pooler_of(bins, samples), small)
    sampled = pooler_of(side, 1)
    found["all bins, 1 sample"] = stand_in(sampled, head)
    for q in (16, 64):
        name = f"all bins, 1 sample, first layer of rank {q}"
        found[name] = stand_in(sampled, of_low_rank(q))
    found["objectness"] = lambda maps, rois: rois.objectness_logits
    return found


def table(name: str, heads: nn.Module, tiles: list[tuple[Maps, Instances]], budget: int) -> str:
    times, agreements = defaultdict(list), defaultdict(list)
    for maps, rois in tiles:
        losses = reference = None
        for stand_in, score in stand_ins(heads).items():
            start = time.perf_counter()
            ranking = score(maps, rois)
            times[stand_in].append(time.perf_counter() - start)
            own_choice = select(ranking, rois, budget)
            if reference is None:  # the exact one is the first
                losses, reference = ranking, own_choice
            choices = [own_choice]
            for k in MULTIPLES:
                promising = ranking.argsort(descending=True)[: round(k * budget)]
                choices.append(promising[select(losses[promising], rois[promising], budget)])
            shares = [torch.isin(reference, mined).float().mean().item() for mined in choices]
            agreements[stand_in].append(shares)
    rows = []
    for stand_in, taken in times.items():
        ratio = statistics.median(a / b for a, b in zip(taken, times["exact"]))
        means = [100 * statistics.mean(shares) for shares in zip(*agreements[stand_in])]
        rows.append([stand_in, f"{ratio:.2f}", *(f"{mean:.1f}" for mean in means)])
    header = ["stand-in", "time / exact", "its own choice", *(f"k = {k}" for k in MULTIPLES)]
    head = (
        f"{name}: {len(tiles)} tiles, {statistics.mean(len(r) for _, r in tiles):.0f} RoIs a tile, "
        f"B/N = {budget}; agreement in %, mean over the tiles"
    )
    return "\n".join([head, "", *markdown_table(header, rows), ""])


def select(ranking: torch.Tensor, rois: Instances, budget: int) -> torch.Tensor:
    return select_hard_examples(ranking, rois.proposal_boxes.tensor, rois.gt_classes, budget)


if __name__ == "__main__":
    main()
