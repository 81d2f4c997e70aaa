"""
Draws the two passes of OHEM for README.md. ::

    python projects/paper/draw_method.py projects/paper/method.png
"""

import sys

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

PLAIN, READ_ONLY, TRAINED = "#e8e8e8", "#fde2c8", "#cfe3f5"
GAP = 0.08  # between a box and an arrow

# name: (text, left, bottom, width, height, color)
BOXES = {
    "image": ("image", 0.0, 3.0, 1.1, 0.9, PLAIN),
    "backbone": ("backbone", 1.7, 3.0, 1.5, 0.9, TRAINED),
    "features": ("feature map", 3.8, 3.0, 1.6, 0.9, PLAIN),
    "proposals": ("all R proposals\n+ ground truth, labelled", 3.4, 5.2, 2.4, 0.9, PLAIN),
    "readonly": ("read-only\nRoI network", 6.7, 4.1, 1.9, 1.1, READ_ONLY),
    "losses": ("loss of each RoI\ncls + loc", 9.1, 4.1, 1.9, 1.1, READ_ONLY),
    "nms": ("NMS by loss\nIoU 0.7", 11.5, 4.1, 1.7, 1.1, READ_ONLY),
    "hard": ("B/N hardest\nof each image", 13.7, 4.1, 1.8, 1.1, READ_ONLY),
    "regular": ("RoI network,\nsame weights", 6.7, 1.2, 1.9, 1.1, TRAINED),
    "mean": ("mean loss\nof the hard RoIs", 9.1, 1.2, 1.9, 1.1, TRAINED),
}
# from the right of a box to the left of another, or to a point
ARROWS = [
    *(("image", "backbone"), ("backbone", "features"), ("readonly", "losses"), ("losses", "nms")),
    *(("nms", "hard"), ("regular", "mean"), ("proposals", (6.6, 4.9))),
    *(("features", (6.6, 4.4)), ("features", (6.6, 2.0))),
]
NOTES = [
    (12.0, 2.6, "hard RoIs"),
    (11.1, 5.6, "no gradients, nothing kept for a backward pass"),
    (9.0, 0.65, "forward and backward, B RoIs"),
]


def main() -> None:
    (target,) = sys.argv[1:]
    figure = Figure(figsize=(11.5, 4.8), layout="tight")
    axes = figure.subplots()

    def arrow(start, end, color: str = "#333333", bend: float = 0.0) -> None:
        style = {"arrowstyle": "-|>", "color": color, "connectionstyle": f"arc3,rad={bend}"}
        axes.annotate("", xy=end, xytext=start, arrowprops=style)

    for text, left, bottom, width, height, color in BOXES.values():
        style = {"boxstyle": "round,pad=0.06", "fc": color, "ec": "#555555"}
        axes.add_patch(FancyBboxPatch((left, bottom), width, height, **style))
        axes.text(left + width / 2, bottom + height / 2, text, ha="center", va="center", size=9)
    for start, end in ARROWS:
        _, left, bottom, width, height, _ = BOXES[start]
        if isinstance(end, str):
            _, x, y, _, height_there, _ = BOXES[end]
            end = (x - GAP, y + height_there / 2)
        arrow((left + width + GAP, bottom + height / 2), end)
    arrow((14.6, 4.1 - GAP), (7.9, 2.4), bend=-0.1)
    # gradients
    arrow((9.0, 1.4), (8.7, 1.4), "#c0392b")
    arrow((6.6, 1.5), (2.45, 2.9), "#c0392b", bend=-0.3)
    axes.text(3.1, 1.25, "gradients", size=9, style="italic", color="#c0392b")
    for x, y, text in NOTES:
        axes.text(x, y, text, ha="center", size=9, style="italic")
    axes.set(xlim=(-0.3, 15.8), ylim=(0.3, 6.4))
    axes.axis("off")
    figure.savefig(target, dpi=110)


if __name__ == "__main__":
    main()
