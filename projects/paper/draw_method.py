"""
Draws the two passes of OHEM for README.md. ::

    python projects/paper/draw_method.py projects/paper/method.png
"""

import sys
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

PLAIN, READ_ONLY, TRAINED = "#e8e8e8", "#fde2c8", "#cfe3f5"
Point = tuple[float, float]

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


def main(argv: Sequence[str] | None = None) -> None:
    (target,) = sys.argv[1:] if argv is None else argv
    figure = Figure(figsize=(11.5, 4.8), layout="tight")
    axes = figure.subplots()
    for text, left, bottom, width, height, color in BOXES.values():
        style = FancyBboxPatch(
            (left, bottom), width, height, boxstyle="round,pad=0.06", fc=color, ec="#555555"
        )
        axes.add_patch(style)
        axes.text(left + width / 2, bottom + height / 2, text, ha="center", va="center", size=9)
    for start, end in (
        (side("image", "right"), side("backbone", "left")),
        (side("backbone", "right"), side("features", "left")),
        (side("readonly", "right"), side("losses", "left")),
        (side("losses", "right"), side("nms", "left")),
        (side("nms", "right"), side("hard", "left")),
        (side("regular", "right"), side("mean", "left")),
        (side("features", "right"), (6.6, 4.4)),
        (side("features", "right"), (6.6, 2.0)),
        (side("proposals", "right"), (6.6, 4.9)),
    ):
        arrow(axes, start, end, "#333333")
    arrow(axes, side("hard", "bottom"), (7.9, 2.4), "#333333", bend=-0.1)
    axes.text(11.6, 2.6, "hard RoIs", size=8, style="italic")
    # gradients
    arrow(axes, (9.0, 1.4), (8.7, 1.4), "#c0392b")
    arrow(axes, (6.6, 1.5), (2.45, 2.9), "#c0392b", bend=-0.3)
    axes.text(3.1, 1.25, "gradients", size=8, style="italic", color="#c0392b")
    axes.text(
        11.1, 5.6, "no gradients, nothing kept for a backward pass", ha="center", size=9,
        style="italic",
    )  # fmt: skip
    axes.text(9.0, 0.65, "forward and backward, B RoIs", ha="center", size=9, style="italic")
    axes.set_xlim(-0.3, 15.8)
    axes.set_ylim(0.3, 6.4)
    axes.axis("off")
    figure.savefig(target, dpi=110)


def side(name: str, which: str) -> Point:
    """The middle of a side of a box, a little outside."""
    _, left, bottom, width, height, _ = BOXES[name]
    gap = 0.08
    return {
        "left": (left - gap, bottom + height / 2),
        "right": (left + width + gap, bottom + height / 2),
        "bottom": (left + width / 2, bottom - gap),
    }[which]


def arrow(axes: Axes, start: Point, end: Point, color: str, bend: float = 0.0) -> None:
    style = {"arrowstyle": "-|>", "color": color, "connectionstyle": f"arc3,rad={bend}"}
    axes.annotate("", xy=end, xytext=start, arrowprops=style)


if __name__ == "__main__":
    main()
