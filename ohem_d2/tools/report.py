"""
A report of a training run in one HTML file, which opens in a browser without a network. ::

    python -m ohem_d2 report OUTPUT_DIR
    python -m ohem_d2 report OUTPUT_DIR --images 200 --dataset coco:test.json:images/

It has the curves of OUTPUT_DIR/metrics.json. With OUTPUT_DIR/config.yaml and the last checkpoint,
or those that are given, it goes over images of the training data and adds what OHEM mines there:
the share of each class, and the hardest images with pictures.
"""

import argparse
import base64
import dataclasses
import logging
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import jinja2
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from ..monitor.scalars import LOGGER_NAME
from .cli import at_least
from .curves import AVERAGE_PRECISION, Series, curves, metrics_notes, read_metrics
from .errors import InputError, message, write_output
from .load_data import load_records, spread
from .load_model import add_model_arguments, load_cfg, load_model
from .sweep import ClassCount, HardImage, sweep_images

logger = logging.getLogger(LOGGER_NAME)


def run(args: argparse.Namespace) -> None:
    """
    Write the report that the arguments ask for.

    Raises:
        InputError: if the run has no metrics, or the report cannot be written.
    """
    series, broken = read_metrics(args.run / "metrics.json")
    notes = metrics_notes(series, broken)
    cfg = sweep = None
    if args.images > 0:
        try:
            cfg, sweep, untrained = sweep_run(args)
            notes += sweep_notes(sweep, untrained)
        except Exception as e:  # whatever it is, the curves can be shown
            notes.append(f"Without classes and hardest images: {message(e)}")
            if not isinstance(e, InputError):  # It may be in heads of one's own: tell where.
                logger.error(notes[-1], exc_info=e)
    for note in notes:
        print(note, file=sys.stderr)
    output = args.output or args.run / "report.html"
    # A name of a file need not be text.
    page = render(args.run, series, notes, cfg, sweep).encode(errors="replace")
    write_output(output, page)
    print(f"report  {output}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of the command."""
    parser.add_argument("run", type=Path, metavar="OUTPUT_DIR")
    add_model_arguments(parser, config_required=False)
    parser.add_argument(
        "--dataset", metavar="DATA", action="append", help="instead of DATASETS.TRAIN"
    )
    parser.add_argument(
        "--images",
        type=at_least(0),
        default=50,
        help="go over so many images of the data (50; 0: none)",
    )
    parser.add_argument("--hardest", type=at_least(1), default=8, help="so many are shown (8)")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="of the report (OUTPUT_DIR/report.html)"
    )


@dataclasses.dataclass
class Sweep:
    """
    What OHEM mines on the data.

    Attributes:
        checkpoint: the file whose weights were used.
        data: names of the data sets.
        images, available: how many were gone over, and how many there are.
        classes, hardest: of :func:`ohem_d2.tools.sweep.sweep_images`.
    """

    checkpoint: str
    data: Sequence[str]
    images: int
    available: int
    classes: list[ClassCount]
    hardest: list[HardImage]


def sweep_run(args: argparse.Namespace) -> tuple[CfgNode, Sweep, list[str]]:
    """
    Go over the data with the run's last checkpoint.

    Args:
        args: of the command.

    Returns:
        the configuration, what was mined, and the names of parameters that the checkpoint did not
        have.

    Raises:
        InputError: says what is wrong.
    """
    config_file = args.config_file or args.run / "config.yaml"
    if not args.config_file and not config_file.is_file():
        raise InputError(
            f"{config_file} does not exist, where Detectron2's default_setup saves it; give the "
            "run's configuration with --config-file"
        )
    cfg = load_cfg(
        str(config_file),
        weights=args.weights or find_checkpoint(args.run),
        overrides=args.opts,
        modules=args.modules,
    )
    names = args.dataset or list(cfg.DATASETS.TRAIN)
    if not names:
        raise InputError("DATASETS.TRAIN is empty; name the data with --dataset")
    records = load_records(cfg, names, args.classes)
    model, untrained = load_model(cfg)
    classes = MetadataCatalog.get(names[0]).get("thing_classes")
    counts, hardest = sweep_images(cfg, model, spread(records, args.images), classes, args.hardest)
    sweep = Sweep(
        cfg.MODEL.WEIGHTS, names, min(args.images, len(records)), len(records), counts, hardest
    )
    return cfg, sweep, untrained


def find_checkpoint(run: Path) -> str:
    """
    The file of the last checkpoint.

    Raises:
        InputError: if the run has not saved any.
    """
    last = run / "last_checkpoint"
    name = last.read_text().strip() if last.is_file() else "model_final.pth"
    if not name or not (run / name).is_file():
        raise InputError(
            f"{run / (name or 'last_checkpoint')} does not exist: the run has saved no checkpoint; "
            "give one with --weights"
        )
    return str(run / name)


def sweep_notes(sweep: Sweep, untrained: Sequence[str]) -> list[str]:
    """What a reader should know about what :func:`sweep_run` found."""
    notes = []
    if untrained:
        notes.append(
            f"{len(untrained)} parameters of the model are not in the checkpoint, as "
            f"{untrained[0]}: what they find hard says nothing about this run."
        )
    if not all(math.isfinite(count.loss) for count in sweep.classes):
        notes.append(
            "With this checkpoint RoIs have a NaN or infinite loss: the run has diverged. "
            "Lower SOLVER.BASE_LR or set SOLVER.CLIP_GRADIENTS.ENABLED True."
        )
    return notes


def render(
    run: Path, series: Series, notes: Sequence[str], cfg: CfgNode | None, sweep: Sweep | None
) -> str:
    """The page; all that it shows is in it."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = data_uri
    # An evaluation after the last iteration is logged as if there were another one.
    done = series.get("total_loss") or max(series.values(), key=lambda s: s[0][-1])
    return environment.get_template("report.html.j2").render(
        run=run.resolve().name,
        iterations=done[0][-1] + 1,
        results={
            name: f"{values[-1]:.1f}"
            for name, (_, values) in series.items()
            if re.fullmatch(AVERAGE_PRECISION, name)
        },
        notes=notes,
        panels=list(curves(series)),
        facts=facts(cfg) if cfg else {},
        sweep=sweep,
    )


def data_uri(content: str | bytes, kind: str) -> str:
    """The content, of that MIME type, as an address that has it all."""
    content = content.encode() if isinstance(content, str) else content
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def facts(cfg: CfgNode) -> dict[str, object]:
    """What of the configuration decides what is mined."""
    heads, solver = cfg.MODEL.ROI_HEADS, cfg.SOLVER
    budget = {key: heads[key] for key in ("NAME", "BATCH_SIZE_PER_IMAGE")}
    ohem = {f"OHEM.{key}": '""' if value == "" else value for key, value in heads.OHEM.items()}
    return {
        **{f"MODEL.ROI_HEADS.{key}": value for key, value in {**budget, **ohem}.items()},
        **{f"SOLVER.{key}": solver[key] for key in ("IMS_PER_BATCH", "BASE_LR", "MAX_ITER")},
    }
