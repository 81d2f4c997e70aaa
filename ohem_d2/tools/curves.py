"""Draw what a training run logged, as curves."""

import io
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ..monitor.pictures import BACKGROUND, FOREGROUND
from .errors import InputError
from .runs import read_metrics

# The largest value that is drawn. No model computes a larger one, and Matplotlib fails on some.
_LARGEST = 1e38

# iterations and values by name of the scalar
Series = dict[str, tuple[list[int], list[float]]]

AVERAGE_PRECISION = r"(.+/)?(bbox|segm|keypoints|voc)/AP\d*"
# Curves of mined RoIs have the same colours at each stage of a cascade.
_STYLES = {"stage1/": "dashed", "stage2/": "dotted"}
# title, what is on it, and names of scalars without the prefix of a cascade's stage
_PANELS = (
    ("Losses", "as trained on; total_loss is their sum", r"(total_)?loss[^/]*"),
    ("Mined RoIs", "per image; foreground and background", r"ohem/num_(fg|bg)"),
    ("Candidates", "per image; survivors are left after NMS", r"ohem/num_(candidates|survivors)"),
    ("Classification loss", "mean over all candidates, and over mined RoIs", r"ohem/mean_cls_\w+"),
    ("Localization loss", "mean over all candidates, and over mined RoIs", r"ohem/mean_loc_\w+"),
    ("Cut", "the lowest ranking loss that was mined", r"ohem/cut"),
    ("Average precision", "of evaluations during the run", AVERAGE_PRECISION),
)


def read_series(run: Path) -> tuple[Series, int]:
    """
    Read a run's metrics.json. Where a resumed run repeats iterations, the earlier values of all
    scalars from there on are dropped. Returns the series, and the number of lines that are not a
    record, such as the last one of a killed run. InputError if there is no record.
    """
    file = run / "metrics.json"
    if not file.is_file():
        what = "OUTPUT_DIR should be that of a Detectron2 run, which writes this file"
        raise InputError(f"{file} does not exist; {what}")
    found: dict[str, list[tuple[int, float, int]]] = defaultdict(list)
    start = 0  # counts how often the run was started before
    lines, records = file.read_text(errors="replace").splitlines(), read_metrics(run)
    broken = sum(bool(line.strip()) for line in lines) - len(records)
    for record in records:
        try:
            # In JSON a number can be too large for a float, and an iteration may not be a number.
            iteration = int(record.pop("iteration"))
            scalars = {k: float(v) for k, v in record.items() if isinstance(v, (int, float))}
        except (KeyError, TypeError, ValueError, OverflowError):
            broken += 1
            continue
        # Detectron2 may write values of an earlier iteration after those of a later one, so this
        # alone does not show that the run went back. A second value of a scalar does.
        again = [found[name][-1] for name in scalars if found[name]]
        if again := [point for point in again if point[0] >= iteration]:
            start += any(point[2] == start for point in again)
            for points in found.values():
                points[:] = [p for p in points if p[0] < iteration or p[2] == start]
        for name, value in scalars.items():
            found[name].append((iteration, value, start))
    if not found:
        raise InputError(f"{file} has no complete line yet; broken ones: {broken}")
    columns = {name: list(zip(*points)) for name, points in found.items() if points}
    return {name: (list(c[0]), list(c[1])) for name, c in columns.items()}, broken


def metrics_notes(series: Series, broken: int) -> list[str]:
    """Notes for the reader about what :func:`read_series` found."""
    notes = []
    if broken:
        why = "a run that is killed while it writes leaves such a line"
        notes.append(f"{broken} line(s) of metrics.json could not be read and are left out; {why}.")
    if all(len(iterations) < 2 for iterations, _ in series.values()):
        notes.append("metrics.json has one value of each scalar so far, and a curve takes two.")
    if not any("ohem/" in name for name in series):
        why = "the run had no OHEM heads, or did not get past WARMUP_ITERS"
        notes.append(f"metrics.json has no ohem/ scalars: {why}.")
    if not all(abs(v) <= _LARGEST for _, values in series.values() for v in values):
        notes.append(f"Values that are not numbers, or above {_LARGEST:.0e}, are not drawn.")
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
    own = {"num_fg": np.divide(FOREGROUND, 255), "num_bg": np.divide(BACKGROUND, 255)}
    for name in names:
        iterations, values = series[name]
        stage, scalar = re.fullmatch(r"(stage\d+/)?(?:ohem/)?(.*)", name, re.DOTALL).groups("")
        label = "".join(c if c.isprintable() else "?" for c in f"{stage}{scalar}")
        axes.plot(
            iterations,
            [value if abs(value) <= _LARGEST else math.nan for value in values],
            label=label.replace("$", r"\$"),  # it does not begin a formula
            color=own.get(scalar),
            linestyle=_STYLES.get(stage, "solid"),
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
