"""Time and memory against the number of RoIs."""

import statistics
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402


def plot(report: dict, path: Path) -> None:
    """One curve for each variant, FPN head, one image, 128 mined RoIs."""
    points = [
        p
        for p in report["points"]
        if p["point"]["head"] == "fpn" and p["point"]["N"] == 1 and p["point"]["B"] == 128
    ]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), constrained_layout=True)
    for variant in points[0]["times"] if points else ():
        rois = [p["point"]["R"] for p in points]
        left.plot(
            rois,
            [statistics.median(p["times"][variant]) for p in points],
            marker="o",
            label=variant,
        )
        right.plot(rois, [p["peak"][variant] / 2**20 for p in points], marker="o", label=variant)
    if points:
        rois = [p["point"]["R"] for p in points]
        bound = [statistics.median(p["bound"]) for p in points]
        left.plot(rois, bound, "k--", label="bound")
    left.set(xlabel="RoIs of an image", ylabel="seconds of the RoI part of a step")
    right.set(xlabel="RoIs of an image", ylabel="peak of tensors in the step, MB")
    left.legend()
    figure.suptitle(f"{report['machine']}, {report['date']}", fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)
