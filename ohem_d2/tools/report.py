"""
A report of a training run in one HTML file, which opens in a browser without a network. ::

    python -m ohem_d2 report OUTPUT_DIR
    python -m ohem_d2 report OUTPUT_DIR --images 200 --dataset coco:test.json:images/

It has the curves of OUTPUT_DIR/metrics.json. It also loads OUTPUT_DIR/config.yaml and the last
checkpoint, or the given ones, and shows what OHEM mines on images of the training data: the share
of each class, and pictures of the hardest images.
"""

import argparse
import dataclasses
import logging
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import jinja2
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.detection_utils import read_image
from torch import nn

from ..config import NODE, OHEMSettings
from .cli import at_least
from .curves import AVERAGE_PRECISION, Series, curves, metrics_notes, read_series
from .data.datasets import FORMS
from .drawing import data_uri, encode, mined_picture
from .errors import InputError, in_words
from .explain import mine
from .files import write_output
from .load_data import image_mapper, load_records, spread
from .load_model import add_model_arguments, load_cfg, load_model

logger = logging.getLogger(__name__)


_NUM_LABELS = 10  # RoIs whose loss is written on a picture


@dataclasses.dataclass
class ClassCount:
    """Counts for one class or background, over all images that were mined on."""

    name: str
    foreground: bool  #: False for background; a class may have that name too
    objects: int = 0  #: in the ground truth
    candidates: int = 0  #: RoIs of this label
    mined: int = 0  #: mined RoIs of this label
    loss: float = 0.0  #: sum of the ranking losses of the mined ones


@dataclasses.dataclass
class HardImage:
    """An image, and what was mined on it."""

    file: str  #: its name
    loss: float  #: mean ranking loss of the mined RoIs
    foreground: int  #: number of mined foreground RoIs
    background: int  #: number of mined background RoIs
    objects: int  #: in the ground truth
    picture: bytes = b""  #: of the mined RoIs, as a JPEG file; empty where none was drawn


@dataclasses.dataclass
class Sweep:
    """What was mined on the images of a run."""

    what: str  #: the images and the checkpoint, in words
    facts: dict[str, object]  #: see :func:`facts`
    classes: list[ClassCount]
    hardest: list[HardImage]


def run(args: argparse.Namespace) -> None:
    """Write the report that the arguments ask for."""
    (series, broken), sweep = read_series(args.run), None
    notes = metrics_notes(series, broken)
    if args.images > 0:
        try:
            sweep, more = sweep_run(args)
            notes += more
        except Exception as e:  # the curves can be shown in any case
            notes.append(f"Without classes and hardest images: {in_words(e)}")
            if not isinstance(e, InputError):  # It may be in the user's heads: log where.
                logger.error(notes[-1], exc_info=e)
    for note in notes:
        print(note, file=sys.stderr)
    output = args.output or args.run / "report.html"
    # A file name may not be valid text.
    write_output(output, render(args.run, series, notes, sweep).encode(errors="replace"))
    print(f"report  {output}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add, images = parser.add_argument, "number of images to mine on (50; 0: none)"
    add("run", type=Path, metavar="OUTPUT_DIR")
    add_model_arguments(parser, config_required=False)
    add("--dataset", metavar="DATA", action="append", help=f"instead of DATASETS.TRAIN: {FORMS}")
    add("--images", type=at_least(0), default=50, help=images)
    add("--hardest", type=at_least(1), default=8, help="number of hardest images to show (8)")
    add("--output", type=Path, metavar="FILE", help="for the report (OUTPUT_DIR/report.html)")


def sweep_run(args: argparse.Namespace) -> tuple[Sweep, list[str]]:
    """Mine on the data with the run's last checkpoint, or the given one. Also returns notes."""
    config_file = args.config_file or args.run / "config.yaml"
    if not args.config_file and not config_file.is_file():
        how = "give the run's configuration with --config-file"
        raise InputError(f"{config_file} does not exist, where default_setup saves it; {how}")
    weights = args.weights or find_checkpoint(args.run)
    cfg = load_cfg(str(config_file), weights=weights, overrides=args.opts, modules=args.modules)
    names = args.dataset or list(cfg.DATASETS.TRAIN)
    if not names:
        raise InputError("DATASETS.TRAIN is empty; name the data with --dataset")
    records = load_records(cfg, names, args.classes)
    gone_over = spread(records, args.images)
    model, notes = load_model(cfg)
    classes = MetadataCatalog.get(names[0]).get("thing_classes")
    counts, hardest = sweep_images(cfg, model, gone_over, classes, args.hardest)
    if not all(math.isfinite(count.loss) for count in counts):
        remedy = "Lower SOLVER.BASE_LR or set SOLVER.CLIP_GRADIENTS.ENABLED True."
        why = "With this checkpoint RoIs have a NaN or infinite loss: the run has diverged"
        notes.append(f"{why}. {remedy}")
    of_data = f"{len(gone_over)} of {len(records)} images of {', '.join(names)}"
    return Sweep(f"{of_data}, with {cfg.MODEL.WEIGHTS}", facts(cfg), counts, hardest), notes


def sweep_images(
    cfg: CfgNode,
    model: nn.Module,
    records: Sequence[dict],
    classes: Sequence[str] | None,
    num_hardest: int,
) -> tuple[list[ClassCount], list[HardImage]]:
    """
    Mine on each image; a cascade counts at its first stage. Returns the counts of all classes that
    occur, the most mined first, and the hardest images, with pictures. InputError names an image
    that cannot be mined on. Without ``classes``, classes are named by their numbers.
    """
    to_inputs, num_classes = image_mapper(cfg), cfg.MODEL.ROI_HEADS.NUM_CLASSES
    names = [*(classes or map(str, range(num_classes))), "background"]
    totals = torch.zeros(4, num_classes + 1, dtype=torch.float64)
    images = []
    for i, record in enumerate(records):
        mining = mine(model, to_inputs(record))[0]
        hard, labels = mining.hard.cpu(), mining.rois[0].gt_classes.cpu()
        losses, mined = mining.ranking.cpu().double()[hard], labels[hard]
        for total, kind in zip(totals, (mining.targets[0].gt_classes.cpu(), labels, mined)):
            total += torch.bincount(kind, minlength=num_classes + 1)
        totals[3].index_add_(0, mined, losses)
        foreground, mean = int((mined < num_classes).sum()), losses.sum().item() / max(len(hard), 1)
        counted = foreground, len(hard) - foreground, len(mining.targets[0])
        images.append((HardImage(record["file_name"], mean, *counted), record))
        if (i + 1) % 10 == 0:
            logger.info(f"Mined on {i + 1} of {len(records)} images")
    counts = [
        ClassCount(names[i], i < num_classes, *map(int, numbers), loss)
        for i, (*numbers, loss) in enumerate(totals.T.tolist())
        if any(numbers)
    ]
    counts.sort(key=lambda count: -count.mined)
    # A mean that is not finite is the hardest.
    images.sort(key=lambda pair: -pair[0].loss if math.isfinite(pair[0].loss) else -math.inf)
    for image, record in images[:num_hardest]:
        mining = mine(model, to_inputs(record))[0]  # the same again
        labels = [f"{loss:.2f}" for loss in mining.ranking[mining.hard[:_NUM_LABELS]].tolist()]
        picture = mined_picture(mining, read_image(record["file_name"], "RGB"), labels)
        image.picture = encode(picture, ".jpg")
    return counts, [image for image, _ in images[:num_hardest]]


def find_checkpoint(run: Path) -> str:
    """The file of the last checkpoint."""
    last = run / "last_checkpoint"
    file = run / (last.read_text().strip() if last.is_file() else "model_final.pth")
    if file.is_file():
        return str(file)
    none = "the run has saved no checkpoint"
    raise InputError(f"{file} does not exist: {none}; give one with --weights")


def render(run: Path, series: Series, notes: Sequence[str], sweep: Sweep | None) -> str:
    """The HTML page. It needs no other file."""
    how = {"undefined": jinja2.StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    loader = jinja2.PackageLoader(__package__, "")
    environment = jinja2.Environment(loader=loader, autoescape=True, **how)
    environment.filters["data_uri"] = data_uri
    # The evaluation after the last iteration is logged one iteration later.
    done = series.get("total_loss") or max(series.values(), key=lambda s: s[0][-1])
    precisions = [name for name in series if re.fullmatch(AVERAGE_PRECISION, name)]
    return environment.get_template("report.html.j2").render(
        run=run.resolve().name,
        iterations=done[0][-1] + 1,
        results={name: f"{series[name][1][-1]:.1f}" for name in precisions},
        notes=notes,
        panels=list(curves(series)),
        sweep=sweep,
    )


def facts(cfg: CfgNode) -> dict[str, object]:
    """The keys of the configuration that decide what is mined, and their values."""
    heads, solver, settings = cfg.MODEL.ROI_HEADS, cfg.SOLVER, vars(OHEMSettings.from_cfg(cfg))
    return {
        **{f"MODEL.ROI_HEADS.{key}": heads[key] for key in ("NAME", "BATCH_SIZE_PER_IMAGE")},
        **{f"{NODE}.{key.upper()}": '""' if v == "" else v for key, v in settings.items()},
        **{f"SOLVER.{key}": solver[key] for key in ("IMS_PER_BATCH", "BASE_LR", "MAX_ITER")},
    }
