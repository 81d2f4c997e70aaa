"""The settings to measure: of the RoI part of a step, and of whole steps."""

from dataclasses import dataclass

from whole_step import Whole


@dataclass(frozen=True)
class Point:
    """A setting to measure: head, RoIs and mined RoIs of an image, images."""

    head: str
    R: int
    N: int = 1
    B: int = 128  # of each image: B/N in the paper
    precision: str = "float32"

    def __str__(self) -> str:
        precision = "" if self.precision == "float32" else f", {self.precision}"
        return f"{self.head} head, R = {self.R}, N = {self.N}, B/N = {self.B}{precision}"


QUICK = [Point("fpn", R) for R in (300, 1000, 2000, 4000)]
FULL = [
    *QUICK,
    *(Point("fpn", R, N=N) for R in (1000, 2000) for N in (2, 4)),
    *(Point("fpn", 2000, B=B) for B in (64, 512)),
    *(Point("vgg16", R) for R in (300, 1000, 2000, 4000)),
    *(Point("vgg16", 1000, B=B) for B in (64, 512)),
    *(Point("c4", R) for R in (300, 1000, 2000)),  # 4,000 would take tens of GB to train on all
    *(Point("vgg16", 1000, N=2), Point("c4", 300, N=2), Point("c4", 300, B=64)),
]
PRECISIONS = ("float32", "float16", "bfloat16")
GPU = [
    *QUICK,
    *(Point("fpn", R, N, precision=p) for R in (1000, 2000) for N in (2, 16) for p in PRECISIONS),
    *(Point("vgg16", 2000, 2, precision=p) for p in PRECISIONS),
    *(Point("c4", 1000, 2, precision=p) for p in PRECISIONS),
]
SMOKE = [Point("fpn", 300, B=64)]
R50, DEMO = Whole("R50-FPN", 1000), Whole("demo", 500)
GPU_STEPS = [
    *(Whole("R50-FPN", R, N, p) for N in (2, 16) for R in (1000, 2000) for p in PRECISIONS),
    DEMO,
]
