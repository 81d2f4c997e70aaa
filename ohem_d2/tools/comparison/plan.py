"""Make the configurations of a comparison from the arguments of the command."""

import argparse
import json
import os
import random
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_dict
from detectron2.modeling import ROI_HEADS_REGISTRY

from ...heads import OHEMMixin
from ..data.datasets import register_datasets
from ..data.records import check_records, records_of
from ..errors import InputError
from ..files import write_atomically
from ..load_model import default_cfg, heads_that_mine, merge, set_num_classes
from .proxy import CONFIG, fit_anchors

FORMS = "random:N, ohem:N, quota:N, or 'NAME=KEY VALUE,KEY VALUE'"  # of samplers
# Iterations of the proxy, with two images each: 0.4 per training image, within these limits
LEAST, MOST = 400, 4000
EVALUATIONS = 5  # during a run
WARMUP = 0.1  # share of the iterations, for OHEM and the learning rate
TEST_SHARE = 0.2  # share of the images, if no test data is given


def variants_of(cfg: CfgNode, samplers: Sequence[str]) -> dict[str, CfgNode]:
    """
    The configuration of each sampler, by name: the shared one with the changes of the sampler.
    ``random:N``, ``ohem:N`` and ``quota:N`` have N RoIs per image; ``NAME=KEY VALUE,KEY VALUE`` is
    your own. InputError names a sampler of another form.
    """
    found = {}
    for text in samplers:
        name, overrides = _sampler(cfg, text)
        found[name] = merge(cfg.clone(), "", overrides)
    if len(found) < len(samplers):
        raise InputError(f"--samplers {' '.join(samplers)}: two have the same name")
    return found


def _sampler(cfg: CfgNode, text: str) -> tuple[str, list[str]]:
    name, own, keys = text.partition("=")
    # A value may have commas, so a pair ends only where a key follows.
    pairs = [pair.split(maxsplit=1) for pair in re.split(r",\s*(?=[A-Z][\w.]*\s)", keys.strip())]
    if own and name and all(len(pair) == 2 for pair in pairs):
        return name, [word for pair in pairs for word in pair]
    kind, _, num = text.partition(":")
    if kind not in ("random", "ohem", "quota") or not num.isdecimal() or int(num) < 1:
        raise InputError(f"--samplers {text!r}; allowed: {FORMS}")
    mining = heads_that_mine(cfg.MODEL.ROI_HEADS.NAME)
    overrides = ["MODEL.ROI_HEADS.NAME", plain_counterpart(mining) if kind == "random" else mining]
    overrides += ["MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", num]
    if kind != "random":
        warmup = str(round(WARMUP * cfg.SOLVER.MAX_ITER))
        overrides += ["MODEL.ROI_HEADS.OHEM.WARMUP_ITERS", warmup]
        overrides += ["MODEL.ROI_HEADS.OHEM.BUDGET", "image" if kind == "ohem" else "quota"]
    return f"{kind} {num}", overrides


def plain_counterpart(mining: str) -> str:
    """The registered name of the heads that OHEM heads build on."""
    registered = dict(ROI_HEADS_REGISTRY)
    for base in registered[mining].__mro__[1:]:
        if registered.get(base.__name__) is base and not issubclass(base, OHEMMixin):
            return base.__name__
    raise InputError(f"MODEL.ROI_HEADS.NAME = {mining!r} builds on no registered heads")


def shared_cfg(args: argparse.Namespace) -> CfgNode:
    """
    What all variants share: the proxy, with classes, anchors and schedule for the data, or the
    configuration that is named. Registers the data sets. InputError says what is wrong.
    """
    cfg = default_cfg(args.modules)
    merge(cfg, args.config_file or str(CONFIG), () if not args.config_file else args.opts)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = tuple(args.train_data), tuple(args.test_data or ())
    classes = register_datasets((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST), args.classes)
    set_num_classes(cfg, len(classes) or len(MetadataCatalog.get(args.train_data[0]).thing_classes))
    if not cfg.DATASETS.TEST:
        train, test = split(cfg.DATASETS.TRAIN, args.output / "data")
        cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (train,), (test,)
        register_datasets([train, test])
    if not args.config_file:
        fit_to_data(cfg)
        merge(cfg, "", args.opts)
    cfg.TEST.EVAL_PERIOD = max(cfg.SOLVER.MAX_ITER // EVALUATIONS, 1)
    cfg.SOLVER.CHECKPOINT_PERIOD = min(cfg.SOLVER.CHECKPOINT_PERIOD, 2 * cfg.TEST.EVAL_PERIOD)
    return cfg


def fit_to_data(cfg: CfgNode) -> None:
    """Fit the anchors to the data, and the schedule to the number of images."""
    records = []
    for name in cfg.DATASETS.TRAIN:
        records += check_records(cfg, name, records_of(cfg, name, "TRAIN"), training=True)[0]
    if not any(r["annotations"] for r in records):
        raise InputError(f"{', '.join(cfg.DATASETS.TRAIN)}: there is no object to train on")
    anchors = CfgNode(fit_anchors(records, cfg.INPUT.MIN_SIZE_TEST))
    cfg.MODEL.ANCHOR_GENERATOR.merge_from_other_cfg(anchors)
    iterations = min(max(round(0.4 * len(records), -2), LEAST), MOST)
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS = int(iterations), (int(0.8 * iterations),)
    cfg.SOLVER.WARMUP_ITERS = int(WARMUP * iterations)


def split(names: Sequence[str], folder: Path) -> tuple[str, str]:
    """Split these data sets into files to train and test on, drawn with a fixed seed."""
    content: dict = {"images": [], "annotations": []}
    for name in names:
        registered = convert_to_coco_dict(name)
        for image in registered["images"]:
            file = os.path.abspath(image["file_name"])
            content["images"].append({**image, "id": f"{name}/{image['id']}", "file_name": file})
        for a in registered["annotations"]:
            new = {"id": len(content["annotations"]) + 1, "image_id": f"{name}/{a['image_id']}"}
            content["annotations"].append({**a, **new})
        content["categories"] = registered["categories"]
    order = sorted(image["id"] for image in content["images"])
    random.Random(0).shuffle(order)
    tests, files = set(order[: round(TEST_SHARE * len(order))]), []
    for kind in ("train", "test"):
        part, is_test = {**content}, kind == "test"
        for rows, key in (("images", "id"), ("annotations", "image_id")):
            part[rows] = [row for row in content[rows] if (row[key] in tests) == is_test]
        write_atomically(folder / f"{kind}.json", json.dumps(part))
        files.append(f"coco:{folder / f'{kind}.json'}:{folder}")
    return files[0], files[1]


def default_devices() -> list[str]:
    """All GPUs, or the CPU once for each core, up to four times."""
    if torch.cuda.is_available():
        return [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    return ["cpu"] * min(os.cpu_count() or 1, 4)
