"""The tables and the picture of a benchmark's report."""

import statistics
from pathlib import Path

from bench_settings import MAIN, Point
from matplotlib.figure import Figure
from measure import in_words
from whole_step import Whole

from ohem_d2.tools.runs import markdown_table


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


def targets_table(report: dict) -> str:
    """Each target of the project beside what was measured, as far as this run measured it."""
    by_point, rows = {Point(**p["point"]): p for p in report["points"]}, []

    def row(*cells: str) -> None:
        rows.append(cells)

    def over(p: dict, base: str, variant: str = "readonly") -> str:
        return in_words(p["times"][variant], p["bound"] if base == "bound" else p["times"][base])

    for point, p in by_point.items():
        if point.R in (1000, 2000) and point.B == 128:
            row(f"`readonly` over the bound, {point}", "≤ 1.05", over(p, "bound"))
    for point, p in by_point.items():
        if point.R == 2000 and point.B == 128:
            layer = over(p, "readonly", "loss_layer")
            row(f"`loss_layer` over `readonly`, {point}", "≥ 2.2", layer)
            ours, plain = p["peak"]["readonly"], p["peak"]["plain"]
            most = f"{(p['held'] + ours) / (p['held'] + plain):.2f}"
            step = f"without parameters and maps {ours / plain:.2f}"
            row(f"peak memory over the plain head's, {point}", "≤ 1.05", f"{most}; {step}")
    if p := by_point.get(MAIN):
        row("screening over `readonly`, R = 2000", "≤ 0.65", over(p, "readonly", "screening"))
        # All of mining but the scoring forward
        found = p["parts"]["readonly"]
        scoring = sum(v for k, v in found.items() if k.startswith("forward/scoring/"))
        share = found["ohem/mine"] / scoring - 1
        row("mining without its forward, over that", "≤ 5 %", f"{100 * share:.1f} %")
        small, large = by_point.get(Point("fpn", 1000)), by_point.get(Point("fpn", 4000))
        if small and large:
            growth = large["peak"]["readonly"] / small["peak"]["readonly"] - 1
            row("growth of its peak memory, R = 1000 to 4000", "≤ 3 %", f"{100 * growth:.1f} %")
            taken = [statistics.median(p["times"]["readonly"]) for p in (large, small)]
            row("growth of time, R = 1000 to 4000", "≤ 4", f"{taken[0] / taken[1]:.2f}")
    for step in report["steps"]:
        if step["step"]["model"] == "R50-FPN":
            ratio = in_words(step["times"]["readonly 128"], step["times"]["plain 512"])
            row(f"whole step over Detectron2's default, {Whole(**step['step'])}", "≤ 1.00", ratio)
    return "\n".join(markdown_table(["target", "wanted", "measured"], rows))


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
