"""The tables and the picture of a benchmark's report."""

import statistics
from pathlib import Path

from bench_settings import Point
from matplotlib.figure import Figure
from measure import in_words
from whole_step import Whole


def point_table(result: dict) -> str:
    bases = {"readonly": result["times"]["readonly"], "bound": result["bound"]}
    rows = [str(Point(**result["point"])), *variants_table(result, bases)]
    for name, taken in result["scoring"].items():
        rows.append(f"  {name}: {statistics.median(taken):.3f}")
    rows.append(f"  bound: {result['fastest']}, and plain")
    for variant, found in result["parts"].items():
        shares = (f"{key} {1e3 * value:.1f}" for key, value in sorted(found.items()))
        rows.append(f"  {variant}, in ms: {', '.join(shares)}")
    return "\n".join(rows) + "\n"


def step_table(result: dict) -> str:
    first, times = next(iter(result["times"].items()))
    whole, rois = Whole(**result["step"]), f"{result['rois']:.0f} candidates an image"
    head = f"Whole training step, {whole}; {rois}"
    return "\n".join([head, *variants_table(result, {first: times})]) + "\n"


def variants_table(result: dict, bases: dict[str, list[float]]) -> list[str]:
    """Seconds, their ratios to those of the bases, and the peak, of each variant."""
    ratios = "".join(f"{'/ ' + base:>16}" for base in bases)
    rows = [f"  {'':24} {'s':>8} {ratios} {'peak MB':>9}"]
    for variant, taken in result["times"].items():
        cells = "".join(f"{in_words(taken, base):>16}" for base in bases.values())
        peak = result["peak"][variant] / 2**20
        rows.append(f"  {variant:24} {statistics.median(taken):8.3f} {cells} {peak:9.0f}")
    return rows


def plot(report: dict, path: Path) -> None:
    """Time and memory against the number of RoIs: FPN head, one image, 128 mined RoIs."""
    same = {"head": "fpn", "N": 1, "B": 128, "precision": "float32"}
    points = [p for p in report["points"] if p["point"].items() >= same.items()]
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    rois = [p["point"]["R"] for p in points]
    for variant in points[0]["times"] if points else ():
        times = [statistics.median(p["times"][variant]) for p in points]
        left.plot(rois, times, marker="o", label=variant)
        right.plot(rois, [p["peak"][variant] / 2**20 for p in points], marker="o")
    left.plot(rois, [statistics.median(p["bound"]) for p in points], "k--", label="bound")
    left.set(xlabel="RoIs of an image", ylabel="seconds of the RoI part of a step")
    right.set(xlabel="RoIs of an image", ylabel="peak of tensors in the step, MB")
    left.legend()
    figure.suptitle(f"{report['machine']}, {report['date']}", fontsize=9)
    figure.savefig(path, dpi=110)
