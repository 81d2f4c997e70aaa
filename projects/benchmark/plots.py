"""Time and memory against the number of RoIs."""

import statistics
from pathlib import Path

from matplotlib.figure import Figure


def plot(report: dict, path: Path) -> None:
    """One curve for each variant, FPN head, one image, 128 mined RoIs."""
    same = {"head": "fpn", "N": 1, "B": 128}
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
