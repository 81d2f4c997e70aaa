"""
What mining costs, side by side in one run. ::

    export PYTHONPATH=.
    python projects/benchmark/bench.py             # some minutes
    python projects/benchmark/bench.py --full      # more heads, images and budgets
    python projects/benchmark/bench.py --smoke     # seconds, to see that it works

Prints tables of ratios; writes ``bench.json`` and ``bench.png`` (time and memory against R) to
``--output``.
"""

import argparse
import datetime
import functools
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

# The profiler reports its own starts and stops on the terminal unless it is told not to.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

import torch  # noqa: E402
from detectron2.utils.events import EventStorage
from heads import VARIANTS, Inputs, build, clear_gradients, scoring_forward, training_step
from matplotlib.figure import Figure
from measure import Step, in_words, interleaved, machine, parts, peak_bytes, process_peak_bytes
from whole_step import MODELS, model_steps

from ohem_d2.files import write_atomically
from ohem_d2.tools.runs import markdown_table

# The ways to score of which the bound takes the fastest: RoIs in an order, so many at a time
SCORING = {
    f"scoring, {order}, {size or 'all'} at a time": (order, size)
    for order in ("as they come", "tile by tile")
    for size in (256, 640, 0)
}
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Point:
    """A setting to measure: head, RoIs and mined RoIs of an image, images."""

    head: str
    R: int
    N: int = 1
    B: int = 128  # of each image: B/N in the paper

    def __str__(self) -> str:
        return f"{self.head} head, R = {self.R}, N = {self.N}, B/N = {self.B}"


MAIN = Point("fpn", 2000)
QUICK = [Point("fpn", R) for R in (300, 1000, 2000, 4000)]
FULL = [
    *QUICK,
    *(Point("fpn", R, N=N) for R in (1000, 2000) for N in (2, 4)),
    *(Point("fpn", 2000, B=B) for B in (64, 512)),
    *(Point("vgg16", R) for R in (300, 1000, 2000, 4000)),
    Point("vgg16", 1000, N=2),
    *(Point("vgg16", 1000, B=B) for B in (64, 512)),
    *(Point("c4", R) for R in (300, 1000, 2000)),  # 4,000 would take tens of GB to train on all
    Point("c4", 300, N=2),
    Point("c4", 300, B=64),
]
SMOKE = [Point("fpn", 300, B=64)]


def main(argv: Sequence[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description="What mining costs; see the file's head.")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--full", action="store_true")
    size.add_argument("--smoke", action="store_true")
    parser.add_argument("--rounds", type=int, default=None, help="default: 7; of --smoke: 1")
    parser.add_argument("--output", type=Path, default=ROOT / "output/benchmark")
    parser.add_argument("--peak-of", metavar="VARIANT", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if args.peak_of:
        print(process_peak(args.peak_of, device))
        return {}

    rounds = args.rounds or (1 if args.smoke else 7)
    args.output.mkdir(parents=True, exist_ok=True)
    report = {
        "date": datetime.date.today().isoformat(),
        "command": " ".join(["python projects/benchmark/bench.py", *(argv or sys.argv[1:])]),
        "machine": machine(device),
        "rounds": rounds,
        "points": [],
        "steps": [],
        "process_peak": {},
    }

    def save() -> None:  # after each part: a run that dies loses nothing
        write_atomically(args.output / "bench.json", json.dumps(report, indent=1))
        plot(report, args.output / "bench.png")

    print(
        f"{report['machine']}, {report['date']}, medians of {rounds} rounds, 5 of whole steps, "
        "3 of the settings that only --full has\n"
    )
    for point in FULL if args.full else SMOKE if args.smoke else QUICK:
        try:
            report["points"].append(measure(point, rounds, device))
        except RuntimeError as e:
            if "out of memory" not in str(e):
                raise
            print(f"{point}: left out, the device's memory is too small\n")
            continue
        print(point_table(report["points"][-1]))
        save()
    if not args.smoke:
        for model in MODELS:
            report["steps"].append(measure_model(model, min(rounds, 5), device))
            print(step_table(report["steps"][-1]))
            save()
        report["process_peak"] = {variant: in_own_process(variant) for variant in VARIANTS}
        print(f"Peak of a process that does three steps of the {MAIN}, MB")
        print("  " + ", ".join(f"{k} {v / 2**20:.0f}" for k, v in report["process_peak"].items()))
        save()
    print()
    print(targets_table(report))
    return report


def measure(point: Point, rounds: int, device: str) -> dict:
    if point not in QUICK + SMOKE:
        rounds = min(rounds, 3)  # they take long, and the targets are about the others
    # C4 has no box head for the sampler or the screening.
    left_out = ("sampler", "screening") if point.head == "c4" else ()
    variants = [variant for variant in VARIANTS if variant not in left_out]
    heads = build(point.head, variants, point.B, device)
    inputs = Inputs(point.head, point.N, point.R, device)
    steps = {variant: training_step(h, inputs) for variant, h in heads.items()}
    readonly = heads["readonly"]
    for name, (order, size) in SCORING.items():
        ordered = inputs if order == "as they come" else inputs.tile_by_tile()
        steps[name] = scoring_forward(readonly, ordered, size or 10**9)

    reset = functools.partial(clear_gradients, readonly, inputs)
    names = ("box_pooler", "pooler", "box_head", "res5", "box_predictor")
    modules = {name: getattr(readonly, name) for name in names if hasattr(readonly, name)}
    found = {}
    with EventStorage():
        times, peaks = times_and_peaks(steps, reset, rounds, device)
        # Not the fastest of each round, which would be lower than what any way can do.
        ways = {name: times.pop(name) for name in SCORING}
        fastest = min(ways, key=lambda name: statistics.median(ways[name]))
        for variant in heads:
            repeated = []
            for _ in range(min(rounds, 3)):
                reset()
                repeated.append(parts(steps[variant], modules, device))
            found[variant] = {k: statistics.median(r[k] for r in repeated) for k in repeated[0]}
    return {
        "point": asdict(point),
        "times": times,
        "scoring": ways,
        "fastest": fastest,
        "bound": [s + p for s, p in zip(ways[fastest], times["plain"])],
        "peak": {variant: peaks[variant] for variant in heads},
        "held": sum(t.nbytes for t in (*readonly.parameters(), *inputs.features.values())),
        "parts": found,
    }


def measure_model(name: str, rounds: int, device: str) -> dict:
    with EventStorage():
        times, peaks = times_and_peaks(*model_steps(name, device), rounds, device)
    return {"model": name, "times": times, "peak": peaks}


def times_and_peaks(steps: dict[str, Step], reset: Step, rounds: int, device: str) -> tuple:
    """Of each step seconds, see ``interleaved``, and bytes."""
    times, peaks = interleaved(steps, rounds, device, reset), {}
    for name, step in steps.items():
        reset()
        peaks[name] = peak_bytes(step, device)
    return times, peaks


def process_peak(variant: str, device: str) -> int:
    heads = build(MAIN.head, [variant], MAIN.B, device)[variant]
    inputs = Inputs(MAIN.head, MAIN.N, MAIN.R, device)
    with EventStorage():
        for _ in range(3):
            clear_gradients(heads, inputs)
            training_step(heads, inputs)()
    return process_peak_bytes()


def in_own_process(variant: str) -> int:
    # Freed memory goes back to the system at once, so that the peak is that of what is in use.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    command = [sys.executable, "-W", "ignore", __file__, "--peak-of", variant]
    return int(subprocess.check_output(command, text=True, env=environment).split()[-1])


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
    rows = [f"Whole training step, {result['model']}", *variants_table(result, {first: times})]
    return "\n".join(rows) + "\n"


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
    by_point = {Point(**p["point"]): p for p in report["points"]}
    rows = []

    def row(*cells: str) -> None:
        rows.append(cells)

    def over(base: str, variant: str = "readonly") -> str:
        return in_words(p["times"][variant], p["bound"] if base == "bound" else p["times"][base])

    for R in (1000, 2000):
        if p := by_point.get(Point("fpn", R)):
            row(f"`readonly` over the bound, R = {R}", "≤ 1.05", over("bound"))
    if p := by_point.get(MAIN):
        row("`loss_layer` over `readonly`, R = 2000", "≥ 2.2", over("readonly", "loss_layer"))
        row("the sampler over `readonly`, R = 2000: time", "≥ 1.00", over("readonly", "sampler"))
        peak, held = p["peak"], p["held"]
        row("the same: peak memory", "≥ 1.10", f"{peak['sampler'] / peak['readonly']:.3f}")
        row("screening over `readonly`, R = 2000", "≤ 0.65", over("readonly", "screening"))
        # All of mining but the scoring forward
        found = p["parts"]["readonly"]
        scoring = sum(v for k, v in found.items() if k.startswith("forward/scoring/"))
        share = found["ohem/mine"] / scoring - 1
        row("mining without its forward, over that", "≤ 5 %", f"{100 * share:.1f} %")
        most = (held + peak["readonly"]) / (held + peak["plain"])
        step = f"without parameters and feature maps {peak['readonly'] / peak['plain']:.2f}"
        row("peak memory over the plain head's, R = 2000", "≤ 1.05", f"{most:.2f}; {step}")
        small, large = by_point.get(Point("fpn", 1000)), by_point.get(Point("fpn", 4000))
        if small and large:
            growth = large["peak"]["readonly"] / small["peak"]["readonly"] - 1
            row("growth of that peak, R = 1000 to 4000", "≤ 3 %", f"{100 * growth:.1f} %")
            taken = [statistics.median(p["times"]["readonly"]) for p in (large, small)]
            row("growth of time, R = 1000 to 4000", "≤ 4", f"{taken[0] / taken[1]:.2f}")
    for step in report["steps"]:
        if step["model"] == "R50-FPN":
            whole = in_words(step["times"]["readonly 128"], step["times"]["plain 512"])
            row("whole R50-FPN step, R = 1000, over Detectron2's default", "≤ 1.00", whole)
    return "\n".join(markdown_table(["target", "wanted", "measured"], rows))


def plot(report: dict, path: Path) -> None:
    """Time and memory against the number of RoIs: FPN head, one image, 128 mined RoIs."""
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


if __name__ == "__main__":
    main()
