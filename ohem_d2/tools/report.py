"""
A report of a training run in one HTML file, which opens in a browser without a network. ::

    python -m ohem_d2.report OUTPUT_DIR
    python -m ohem_d2.report OUTPUT_DIR --images 200 --dataset coco:test.json:images/

It has the curves of OUTPUT_DIR/metrics.json. With OUTPUT_DIR/config.yaml and the last checkpoint,
or those that are given, it goes over images of the training data and adds what OHEM mines there:
the share of each class, and the hardest images with pictures.
"""

import argparse
import base64
import dataclasses
import io
import json
import logging
import math
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import jinja2
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils.logger import setup_logger
from matplotlib.figure import Figure

from ..monitor.drawing import BACKGROUND, FOREGROUND
from ..monitor.scalars import LOGGER_NAME
from .explain import write_file
from .load_model import (
    INPUT_ERRORS,
    add_model_arguments,
    at_least,
    load_cfg,
    load_model,
    load_records,
    message,
    spread,
)
from .sweep import ClassCount, HardImage, sweep_images

logger = logging.getLogger(LOGGER_NAME)

# iterations and values by name of the scalar
Series = dict[str, tuple[list[int], list[float]]]

_AP = r"(.+/)?(bbox|segm|keypoints)/AP\d*"
# Curves of mined RoIs have the same colours at each stage of a cascade.
_STYLES = {"stage1/": "dashed", "stage2/": "dotted"}
# title, what is on it, and names of scalars without the prefix of a cascade's stage
_PANELS = (
    ("Losses", "as trained on; total_loss is their sum", r"(total_)?loss[^/]*"),
    ("Mined RoIs", "an image; foreground and background", r"ohem/num_(fg|bg)"),
    ("Candidates", "an image; survivors are those left by NMS", r"ohem/num_(candidates|survivors)"),
    ("Classification loss", "mean over all candidates, and over mined RoIs", r"ohem/mean_cls_\w+"),
    ("Localization loss", "mean over all candidates, and over mined RoIs", r"ohem/mean_loc_\w+"),
    ("Cut", "the lowest ranking loss that was mined", r"ohem/cut"),
    ("Average precision", "of evaluations during the run", _AP),
)


def main(argv: Sequence[str] | None = None) -> None:
    """
    The command.

    Args:
        argv: its arguments; None: those of the process.

    Raises:
        SystemExit: if the run has no metrics, or the report cannot be written.
    """
    args = parse(argv)
    try:
        series, broken = read_metrics(args.run / "metrics.json")
    except (OSError, ValueError) as e:
        raise SystemExit(f"python -m ohem_d2.report: {e}") from e
    notes = metrics_notes(series, broken)
    cfg = sweep = None
    if args.images > 0:
        try:
            cfg, sweep, untrained = sweep_run(args)
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
        except Exception as e:  # whatever it is, the curves can be shown
            notes.append(f"Without classes and hardest images: {message(e)}")
            # What is no error about input may be one in heads of one's own: tell where it is.
            level = logging.DEBUG if isinstance(e, INPUT_ERRORS) else logging.ERROR
            logger.log(level, notes[-1], exc_info=e)
    for note in notes:
        print(note, file=sys.stderr)
    output = args.output or args.run / "report.html"
    # A name of a file need not be text.
    page = render(args.run, series, notes, cfg, sweep).encode(errors="replace")
    try:
        write_file(output, page)
    except OSError as e:
        raise SystemExit(f"python -m ohem_d2.report: {e}") from e
    print(f"report  {output}")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments, checked as far as that takes no file."""
    parser = argparse.ArgumentParser(
        prog="python -m ohem_d2.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
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
    return parser.parse_intermixed_args(argv)


# ---- what the run logged ---------------------------------------------------------------------


def read_metrics(path: Path) -> tuple[Series, int]:
    """
    Args:
        path: what Detectron2's JSONWriter wrote. Where a resumed run repeats iterations, the later
            values count.

    Returns:
        the series, and the number of lines that are no record, as the last one of a run that was
        killed while it wrote.

    Raises:
        OSError, ValueError: if there is no such file, or no record in it.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist; OUTPUT_DIR should be that of a run with Detectron2, which "
            "writes metrics.json there"
        )
    series: Series = defaultdict(lambda: ([], []))
    broken = 0
    for line in path.read_text(errors="replace").splitlines():
        try:
            record = json.loads(line)
            # As JSON has them, numbers can be too large for a float.
            iteration = int(float(record.pop("iteration")))
            scalars = {k: float(v) for k, v in record.items() if isinstance(v, (int, float))}
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            broken += bool(line.strip())
            continue
        for name, value in scalars.items():
            iterations, values = series[name]
            while iterations and iterations[-1] >= iteration:
                iterations.pop()
                values.pop()
            iterations.append(iteration)
            values.append(value)
    if not series:
        raise ValueError(f"{path} has no complete line yet; broken ones: {broken}")
    return dict(series), broken


def metrics_notes(series: Series, broken: int) -> list[str]:
    """What a reader should know about the metrics that :func:`read_metrics` found."""
    notes = []
    if broken:
        lines = "1 line" if broken == 1 else f"{broken} lines"
        notes.append(
            f"{lines} of metrics.json could not be read and are left out; a run that is killed "
            "while it writes leaves such a line."
        )
    if all(len(iterations) < 2 for iterations, _ in series.values()):
        notes.append("metrics.json has one value of each scalar so far, and a curve takes two.")
    if not any("ohem/" in name for name in series):
        notes.append(
            "metrics.json has no ohem/ scalars: the run had no OHEM heads, or did not get past "
            "WARMUP_ITERS."
        )
    if any(v > 0 for n, (_, values) in series.items() if "num_nonfinite" in n for v in values):
        notes.append("Some RoIs had a NaN or infinite loss: see ohem/num_nonfinite.")
    return notes


def curves(series: Series) -> Iterator[tuple[str, str, str]]:
    """For each panel that the run has a curve for: title, description, SVG."""
    for title, description, pattern in _PANELS:
        names = [n for n in series if re.fullmatch(rf"(stage\d+/)?({pattern})", n)]
        if any(len(series[name][0]) > 1 for name in names):
            yield title, description, plot(names, series)


def plot(names: Sequence[str], series: Series) -> str:
    """An SVG with the curves of those names over the iterations."""
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.add_subplot()
    own = {"num_fg": FOREGROUND, "num_bg": BACKGROUND}
    for name in names:
        iterations, values = series[name]
        stage, scalar = re.fullmatch(r"(stage\d+/)?(?:ohem/)?(.*)", name, re.DOTALL).groups("")
        color = own.get(scalar)
        label = "".join(c if c.isprintable() else "?" for c in f"{stage}{scalar}")
        axes.plot(
            iterations,
            values,
            label=label.replace("$", r"\$"),  # it is no mathematics
            color=color and tuple(c / 255 for c in color),
            linestyle=_STYLES.get(stage, "solid"),
            linewidth=1.5,
        )
    axes.set_xlabel("iteration")
    if axes.dataLim.ymin >= 0:
        axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=4, frameon=False, fontsize="small")
    svg = io.StringIO()
    figure.savefig(svg, format="svg", transparent=True)
    return svg.getvalue()


# ---- what OHEM mines on the data -------------------------------------------------------------


@dataclasses.dataclass
class Sweep:
    """
    What OHEM mines on the data.

    Attributes:
        checkpoint: the file whose weights were used.
        data: names of the data sets.
        images, available: how many were gone over, and how many there are.
        classes, hardest: of :func:`ohem_d2.sweep.sweep_images`.
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
        args: of :func:`parse`.

    Returns:
        the configuration, what was mined, and the names of parameters that the checkpoint did not
        have.

    Raises:
        one of ``INPUT_ERRORS``: says what is wrong.
    """
    config_file = args.config_file or args.run / "config.yaml"
    if not args.config_file and not config_file.is_file():
        raise FileNotFoundError(
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
        raise ValueError("DATASETS.TRAIN is empty; name the data with --dataset")
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
        FileNotFoundError: if the run has not saved any.
    """
    last = run / "last_checkpoint"
    name = last.read_text().strip() if last.is_file() else "model_final.pth"
    if not name or not (run / name).is_file():
        raise FileNotFoundError(
            f"{run / (name or 'last_checkpoint')} does not exist: the run has saved no checkpoint; "
            "give one with --weights"
        )
    return str(run / name)


# ---- the page --------------------------------------------------------------------------------


def render(
    run: Path, series: Series, notes: Sequence[str], cfg: CfgNode | None, sweep: Sweep | None
) -> str:
    """The page; all that it shows is in it."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["data_uri"] = data_uri
    # An evaluation after the last iteration is logged as if there were another one.
    done = series.get("total_loss") or max(series.values(), key=lambda s: s[0][-1])
    totals = dict.fromkeys(("objects", "candidates", "mined"), 0)
    for count in sweep.classes if sweep else ():
        for kind in totals:
            totals[kind] += getattr(count, kind)
    return environment.from_string(_PAGE).render(
        run=run.resolve().name,
        iterations=done[0][-1] + 1,
        results={
            name: f"{values[-1]:.1f}"
            for name, (_, values) in series.items()
            if re.fullmatch(_AP, name)
        },
        notes=notes,
        panels=list(curves(series)),
        facts=facts(cfg) if cfg else {},
        sweep=sweep,
        totals={kind: max(total, 1) for kind, total in totals.items()},
    )


def data_uri(content: str | bytes, kind: str) -> str:
    """The content, of that MIME type, as an address that has it all."""
    if isinstance(content, str):
        content = content.encode()
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def facts(cfg: CfgNode) -> dict[str, object]:
    """What of the configuration decides what is mined."""
    heads = cfg.MODEL.ROI_HEADS
    return {
        "MODEL.ROI_HEADS.NAME": heads.NAME,
        "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": heads.BATCH_SIZE_PER_IMAGE,
        **{
            f"MODEL.ROI_HEADS.OHEM.{key}": '""' if value == "" else value
            for key, value in heads.OHEM.items()
        },
        "SOLVER.IMS_PER_BATCH": cfg.SOLVER.IMS_PER_BATCH,
        "SOLVER.BASE_LR": cfg.SOLVER.BASE_LR,
        "SOLVER.MAX_ITER": cfg.SOLVER.MAX_ITER,
    }


_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>OHEM: {{ run }}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff;
  max-width: 75rem; margin: 0 auto; padding: 1.5rem; }
h1 { font-size: 1.7rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem; border-bottom: 1px solid #ddd; }
p, figcaption { margin: .4rem 0; overflow-wrap: anywhere; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr));
  gap: 1.5rem; }
figure { margin: 0; }
figure img { width: 100%; height: auto; display: block; }
figcaption { font-size: .9rem; }
.note { background: #fff4d6; border-left: 4px solid #d99a00; padding: .5rem .8rem; }
.quiet { color: #666; }
table { border-collapse: collapse; font-size: .92rem; }
th, td { padding: .25rem .8rem .25rem 0; text-align: right; white-space: nowrap; }
th { border-bottom: 1px solid #bbb; font-weight: 600; }
th:first-child, td:first-child { text-align: left; }
.bar { display: inline-block; width: 9rem; height: .7rem; background: #eee; text-align: left;
  margin-right: .5rem; }
.bar i { display: block; height: 100%; }
.settings td { text-align: left; }
.wide { overflow-x: auto; }
code { font-size: .88em; }
</style>
</head>
<body>
<h1>{{ run }}</h1>
<p class="quiet">{{ iterations }} iterations. Online hard example mining, reported by ohem_d2.</p>
{% if results %}
<p>Last evaluation:{% for name, value in results.items() %} {{ name }} <b>{{ value }}</b>
{%- if not loop.last %},{% endif %}{% endfor %}</p>
{% endif %}
{% for note in notes %}
<p class="note">{{ note }}</p>
{% endfor %}

{% if panels %}
<h2>Curves</h2>
<div class="grid">
{% for title, description, svg in panels %}
<figure>
<figcaption><b>{{ title }}</b> <span class="quiet">{{ description }}</span></figcaption>
<img alt="{{ title }} over iterations" src="{{ svg | data_uri("image/svg+xml") }}">
</figure>
{% endfor %}
</div>
{% endif %}

{% if sweep %}
<h2>What is mined, by class</h2>
<p>{{ sweep.images }} of {{ sweep.available }} images of {{ sweep.data | join(", ") }}, with
{{ sweep.checkpoint }}. A class whose share of the mined RoIs is above its share of the candidates
is hard for the model.</p>
<div class="wide"><table>
<tr><th>class</th><th>objects</th><th>candidates</th><th>mined</th>
<th>share of candidates</th><th>share of mined</th><th>mean loss of mined</th></tr>
{% for c in sweep.classes %}
{% set color = "rgb(0,158,255)" if c.foreground else "rgb(255,64,32)" %}
<tr><td>{{ c.name }}</td>
<td>{{ c.objects if c.foreground else "" }}</td><td>{{ c.candidates }}</td>
<td>{{ c.mined }}</td>
{% for count, total, fill in ((c.candidates, totals.candidates, "#999"),
  (c.mined, totals.mined, color)) %}
{% set percent = "%.1f" | format(100 * count / total) %}
<td><span class="bar"><i style="width:{{ percent }}%;background:{{ fill }}"></i></span>
{{ percent }} %</td>
{% endfor %}
<td>{{ "%.3f" | format(c.loss / c.mined) if c.mined else "" }}</td></tr>
{% endfor %}
</table></div>

<h2>Hardest images</h2>
<p>Of these {{ sweep.images }}, by the mean ranking loss of the mined RoIs. Objects without a label
are mined as the hardest background: look for them first.</p>
<div class="grid">
{% for image in sweep.hardest %}
<figure>
<img alt="mined RoIs on {{ image.file }}" src="{{ image.picture | data_uri("image/jpeg") }}">
<figcaption><b>{{ loop.index }}. mean loss {{ "%.3f" | format(image.loss) }}</b>,
{{ image.objects }} objects, {{ image.foreground }} foreground and {{ image.background }} background
RoIs mined<br><span class="quiet">{{ image.file }}</span></figcaption>
</figure>
{% endfor %}
</div>
{% endif %}

{% if facts %}
<h2>Settings</h2>
<div class="wide"><table class="settings">
{% for key, value in facts.items() %}
<tr><td><code>{{ key }}</code></td><td><code>{{ value }}</code></td></tr>
{% endfor %}
</table></div>
{% endif %}
</body>
</html>
"""


if __name__ == "__main__":
    setup_logger().setLevel(logging.INFO)
    main()
