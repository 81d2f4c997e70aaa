"""
What mining costs, side by side in one run. ::

    export PYTHONPATH=.
    python projects/benchmark/bench.py             # some minutes
    python projects/benchmark/bench.py --full      # more heads, images and budgets
    python projects/benchmark/bench.py --gpu       # large batches and half precision, for a GPU
    python projects/benchmark/bench.py --smoke     # seconds, to see that it works

``--only rois`` leaves out whole steps, ``--only steps`` all else. Prints tables of ratios, and
writes ``bench.json`` and ``bench.png`` (time and memory against R) to ``--output``.
"""

import argparse
import contextlib
import datetime
import functools
import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from detectron2.utils.events import EventStorage
from heads import (
    VARIANTS,
    Inputs,
    Whole,
    build,
    clear_gradients,
    model_steps,
    scoring_forward,
    training_step,
)
from matplotlib.figure import Figure
from measure import Step, in_words, interleaved, machine, parts, peak_bytes

from ohem_d2.mining.scoring import chunk_size_for
from ohem_d2.tools.files import write_atomically

# Two ways to score; the bound takes the faster one. The order of RoIs is OHEM's.
ALL, CHUNKS = "scoring, all at a time", "scoring, OHEM's chunks"
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Point:
    """A setting to measure: head, RoIs and mined RoIs per image, number of images."""

    head: str
    R: int
    N: int = 1
    B: int = 128  # per image: B/N in the paper
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


def main(argv: Sequence[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description="What mining costs; see the docstring.")
    size = parser.add_mutually_exclusive_group()
    for name in ("--full", "--gpu", "--smoke"):
        size.add_argument(name, action="store_true")
    parser.add_argument("--only", choices=["rois", "steps"])
    parser.add_argument("--rounds", type=int, default=None, help="default: 7; with --smoke: 1")
    parser.add_argument("--output", type=Path, default=ROOT / "output/benchmark")
    args = parser.parse_args(argv)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rounds = args.rounds or (1 if args.smoke else 7)
    args.output.mkdir(parents=True, exist_ok=True)
    command = " ".join(["python projects/benchmark/bench.py", *(argv or sys.argv[1:])])
    report = {"date": datetime.date.today().isoformat(), "command": command}
    report |= {"machine": machine(device), "rounds": rounds, "points": [], "steps": []}

    def save() -> None:  # after each part: a run that dies loses nothing
        write_atomically(args.output / "bench.json", json.dumps(report, indent=1))
        plot(report, args.output / "bench.png")

    of = f"medians of {rounds} rounds, 5 of whole steps, 3 of the settings that only --full has"
    print(f"{report['machine']}, {report['date']}, {of}\n")
    points = FULL if args.full else GPU if args.gpu else SMOKE if args.smoke else QUICK
    wholes = GPU_STEPS if args.gpu else [] if args.smoke else [R50, DEMO]
    for point in points if args.only != "steps" else []:
        with room_for(point):
            report["points"].append(measure(point, rounds, device))
            print(point_table(report["points"][-1]), flush=True)
            save()
    for whole in wholes if args.only != "rois" else []:
        with room_for(whole):
            report["steps"].append(measure_model(whole, min(rounds, 5), device))
            print(step_table(report["steps"][-1]), flush=True)
            save()
    return report


@contextlib.contextmanager
def room_for(setting: Point | Whole) -> Iterator[None]:
    """Leaves out a setting that does not fit in the memory of the device."""
    try:
        yield
    except RuntimeError as e:
        if "out of memory" not in str(e):
            raise
        print(f"{setting}: left out, the device's memory is too small\n")


def measure(point: Point, rounds: int, device: str) -> dict:
    if point not in QUICK + SMOKE and device == "cpu":
        rounds = min(rounds, 3)  # they take long, and the targets are about the others
    # C4 heads have neither screening nor a loss layer.
    others = ("screening", "loss_layer") if point.head == "c4" else ()
    variants = [v for v in VARIANTS if v not in others]
    heads = build(point.head, variants, point.B, device)
    inputs = Inputs(point.head, point.N, point.R, device, point.precision)
    steps = {variant: training_step(h, inputs) for variant, h in heads.items()}
    readonly = heads["readonly"]
    some_map = next(iter(inputs.features.values()))
    sizes = {ALL: 10**9, CHUNKS: chunk_size_for(readonly, some_map, point.N * point.B)}
    for name, size in sizes.items():
        steps[name] = scoring_forward(readonly, inputs, size)

    reset = functools.partial(clear_gradients, readonly, inputs)
    names = ("box_pooler", "pooler", "box_head", "res5", "box_predictor")
    modules = {name: getattr(readonly, name) for name in names if hasattr(readonly, name)}
    found = {}
    with EventStorage():
        times, peaks = times_and_peaks(steps, reset, rounds, device)
        # Not the fastest of each round, which would be faster than any single way.
        ways = {name: times.pop(name) for name in sizes}
        fastest = min(ways, key=lambda name: statistics.median(ways[name]))
        for variant in heads:
            args = steps[variant], modules, device
            repeated = [(reset(), parts(*args))[1] for _ in range(min(rounds, 3))]
            found[variant] = {k: statistics.median(r[k] for r in repeated) for k in repeated[0]}
    return {
        "point": asdict(point),
        "times": times,
        "scoring": ways,
        "fastest": fastest,
        "bound": [s + p for s, p in zip(ways[fastest], times["plain"])],
        "peak": {variant: peaks[variant] for variant in heads},
        "parts": found,
    }


def measure_model(whole: Whole, rounds: int, device: str) -> dict:
    steps, reset = model_steps(whole, device)
    with EventStorage() as storage:
        times, peaks = times_and_peaks(steps, reset, rounds, device)
    # An RPN's NMS may leave fewer proposals than are asked for.
    rois = storage.latest()["ohem/num_candidates"][0]
    return {"step": asdict(whole), "rois": rois, "times": times, "peak": peaks}


def times_and_peaks(steps: dict[str, Step], reset: Step, rounds: int, device: str) -> tuple:
    """Seconds of each step, see ``interleaved``, and bytes."""
    times, peaks = interleaved(steps, rounds, device, reset), {}
    for name, step in steps.items():
        reset()
        peaks[name] = peak_bytes(step, device)
    return times, peaks


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
    """For each variant the seconds, their ratios to the bases, and the peak memory."""
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


if __name__ == "__main__":
    main()
