"""
Does BUDGET "quota" choose what mmdetection's OHEMSampler chooses, and what do both cost? ::

    pip install --no-deps -r projects/benchmark/requirements-mmdetection.txt
    PYTHONPATH=. python projects/benchmark/against_mmdetection.py
    PYTHONPATH=. python projects/benchmark/against_mmdetection.py --time --images 2 --rois 2000

Both get the same parameters, feature maps, proposals and objects. mmdetection's own code runs:
``StandardRoIHead`` with its assigner, its sampler, and a box head like Detectron2's. The package of
mmcv comes without its compiled ops. The detector here needs only RoIAlign, for which mmcv can take
torchvision's.
"""

import argparse
import importlib.util
import statistics
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from types import ModuleType
from typing import Any

import torch
from detectron2.modeling.roi_heads import build_roi_heads
from detectron2.utils.events import EventStorage
from heads import FPN, MMDETECTIONS, Inputs, clear_gradients, config_of, shapes_of, training_step
from measure import in_words, interleaved, machine, peak_bytes
from torch import nn

from ohem_d2.tools.runs import markdown_table

PACKAGES = ("onedl-mmdetection", "onedl-mmcv", "onedl-mmengine", "torch", "torchvision")
Choice = list[set[tuple[float, ...]]]  # the boxes that are chosen in each image
# What differs from "the same setting": keys of ours, and arguments of their sampler
APPEND, ADD = {"PROPOSAL_APPEND_GT": False}, {"add_gt_as_proposals": False}
ROWS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("the same setting", {}, {}),
    ("neither adds the objects to the proposals", APPEND, ADD),
    ("add_gt_as_proposals: only they add them", APPEND, {}),
    ("neg_pos_ub: at most 1 background for each foreground", {}, {"neg_pos_ub": 1}),
    ("ranking by the localization loss, too: RANK_LOC_WEIGHT 1", {"OHEM.RANK_LOC_WEIGHT": 1.0}, {}),
    ('NMS by loss: NMS_SCOPE "class"', {"OHEM.NMS_SCOPE": "class"}, {}),
    ("a budget of the hardest of both kinds, as the paper's", {"OHEM.BUDGET": "image"}, {}),
    ("ties: a predictor for which all RoIs are alike", {}, {}),
]


def main(argv: Sequence[str] | None = None) -> list[tuple[str, int, float]]:
    """Rows of the table: what differs, B/N, and the share of RoIs that both choose."""
    parser = argparse.ArgumentParser(description="Against mmdetection; see the docstring.")
    parser.add_argument("--budgets", type=int, nargs="+", default=[64, 128, 512], help="B/N")
    parser.add_argument("--images", type=int, default=3, help="the last one shows no object")
    parser.add_argument("--rois", type=int, default=1000, help="proposals per image")
    parser.add_argument("--time", action="store_true", help="time and memory of a step instead")
    args = parser.parse_args(argv)
    inputs, found = Inputs("fpn", args.images, args.rois, "cpu"), []
    print(", ".join(f"{name} {version(name)}" for name in PACKAGES))
    if args.time:
        compare_cost(inputs, f"{args.images} images of {args.rois} proposals, B/N = 128")
        return []
    inputs.targets[-1] = inputs.targets[-1][:0]
    for what, settings, arguments in ROWS:
        for budget in args.budgets:
            ours = our_heads(budget, settings, alike=what.startswith("ties"))
            choice, theirs = our_choice(ours, inputs), their_choice(ours, inputs, arguments)
            shared = sum(len(a & b) for a, b in zip(choice, theirs))
            found.append((what, budget, shared / sum(len(a | b) for a, b in zip(choice, theirs))))
    size = f"{args.images} images of {args.rois} proposals, the last one without objects"
    print(f"{size}; RoIs that both choose, of those that either does\n")
    shares = {key: {b: f"{share:.1%}" for k, b, share in found if k == key} for key, *_ in ROWS}
    header = ["what differs", *(f"B/N = {budget}" for budget in args.budgets)]
    print("\n".join(markdown_table(header, [[key, *of.values()] for key, of in shares.items()])))
    return found


def our_heads(budget: int, settings: dict[str, Any], alike: bool = False) -> nn.Module:
    """``OHEMROIHeads`` that choose as theirs do, except for these settings."""
    settings = {"NAME": "OHEMROIHeads", **MMDETECTIONS, "BATCH_SIZE_PER_IMAGE": budget, **settings}
    overrides = [x for k, value in settings.items() for x in (f"MODEL.ROI_HEADS.{k}", value)]
    torch.manual_seed(0)
    heads = build_roi_heads(config_of(FPN, "MODEL.DEVICE", "cpu", *overrides), shapes_of("fpn"))
    weight = heads.box_predictor.cls_score.weight
    # As initialized, all losses would be nearly equal.
    nn.init.zeros_(weight) if alike else nn.init.normal_(weight, std=0.5)
    return heads.train()


def our_choice(heads: nn.Module, inputs: Inputs) -> Choice:
    with EventStorage():
        chosen, _ = heads(inputs.images, inputs.features, inputs.proposals, inputs.targets)
    return [set(map(tuple, image.proposal_boxes.tensor.tolist())) for image in chosen]


@torch.no_grad()
def their_choice(ours: nn.Module, inputs: Inputs, arguments: dict[str, Any]) -> Choice:
    """What a ``StandardRoIHead`` with the same parameters chooses, as in its ``loss``."""
    heads, chosen = their_heads(ours, arguments), []
    from mmengine.structures import InstanceData

    for i, (proposals, target) in enumerate(zip(inputs.proposals, inputs.targets)):
        priors = InstanceData(priors=proposals.proposal_boxes.tensor)
        objects = InstanceData(bboxes=target.gt_boxes.tensor, labels=target.gt_classes)
        assigned = heads.bbox_assigner.assign(priors, objects)
        maps = [inputs.features[f][i][None] for f in ours.box_in_features]
        sampled = heads.bbox_sampler.sample(assigned, priors, objects, feats=maps)
        chosen.append(set(map(tuple, sampled.priors.tolist())))
    return chosen


def their_heads(ours: nn.Module, arguments: dict[str, Any]) -> nn.Module:
    """mmdetection's heads with the parameters of ours, and these arguments of the sampler."""
    if "mmcv._ext" not in sys.modules and not importlib.util.find_spec("mmcv._ext"):
        sys.modules["mmcv._ext"] = _NoOps("mmcv._ext")
    import mmdet.models.task_modules  # noqa: F401  registers assigners and samplers
    from mmdet.models.roi_heads import StandardRoIHead
    from mmengine.config import ConfigDict

    num_classes, side = ours.num_classes, ours.box_pooler.output_size[0]
    align = {"type": "RoIAlign", "output_size": side, "sampling_ratio": 0, "use_torchvision": True}
    extractor = {"type": "SingleRoIExtractor", "roi_layer": align, "out_channels": 256}
    extractor["featmap_strides"] = [4, 8, 16, 32]
    head = {"type": "Shared2FCBBoxHead", "in_channels": 256, "fc_out_channels": 1024}
    head |= {"roi_feat_size": side, "num_classes": num_classes}
    ious = {"pos_iou_thr": 0.5, "neg_iou_thr": 0.5, "min_pos_iou": 0.5, "match_low_quality": False}
    sampler = {"type": "OHEMSampler", "num": ours.batch_size_per_image, "pos_fraction": 0.25}
    training = {"assigner": {"type": "MaxIoUAssigner", **ious}, "sampler": sampler | arguments}
    training["pos_weight"] = -1  # none
    theirs = StandardRoIHead(extractor, head, train_cfg=ConfigDict(training))
    layers = [x for x in ours.box_head if isinstance(x, nn.Linear)]
    their_layers = *theirs.bbox_head.shared_fcs, theirs.bbox_head.fc_cls
    for a, b in zip((*layers, ours.box_predictor.cls_score), their_layers, strict=True):
        b.load_state_dict(a.state_dict())
    return theirs.train()


def compare_cost(inputs: Inputs, size: str) -> None:
    """Seconds and peak memory of a step of both, forward and backward, in five rounds."""
    paper = {"OHEM.BUDGET": "image", "OHEM.NMS_SCOPE": "class", "OHEM.RANK_LOC_WEIGHT": 1.0}
    heads = {"OHEM": our_heads(128, paper), "OHEM, quota": our_heads(128, {})}
    theirs = their_heads(heads["OHEM"], {})
    steps = {name: training_step(ours, inputs) for name, ours in heads.items()}
    steps["mmdetection"] = their_step(theirs, inputs, heads["OHEM"].box_in_features)

    def reset() -> None:
        for each in (*heads.values(), theirs):
            clear_gradients(each, inputs)

    with EventStorage():
        times, memory = interleaved(steps, 5, "cpu", reset), {}
        for name, step in steps.items():
            reset()
            memory[name] = peak_bytes(step, "cpu")
    print(f"{machine('cpu')}; {size}\n")
    header, rows = ["", "seconds", "over mmdetection", "peak memory over mmdetection's"], []
    for name, of in times.items():
        rows.append([name, f"{statistics.median(of):.2f}", in_words(of, times["mmdetection"])])
        rows[-1].append(f"{memory[name] / memory['mmdetection']:.2f}")
    print("\n".join(markdown_table(header, rows)))


def their_step(theirs: nn.Module, inputs: Inputs, names: Sequence[str]) -> Callable[[], None]:
    """Forward and backward of a ``StandardRoIHead``."""
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    def step() -> None:
        samples, proposals = [], []
        for target, image in zip(inputs.targets, inputs.proposals):
            objects = InstanceData(bboxes=target.gt_boxes.tensor, labels=target.gt_classes)
            samples.append(DetDataSample(gt_instances=objects))
            boxes, scores = image.proposal_boxes.tensor, image.objectness_logits
            proposals.append(InstanceData(bboxes=boxes, scores=scores))
        losses = theirs.loss([inputs.features[f] for f in names], proposals, samples)
        (losses["loss_cls"] + losses["loss_bbox"]).backward()

    return step


class _NoOps(ModuleType):
    """Replaces compiled ops, which can then be imported but not called."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def op(*_: Any) -> None:
            raise NotImplementedError(f"mmcv._ext.{name}")

        return op


if __name__ == "__main__":
    main()
