"""
What mining costs, side by side in one run. ::

    export PYTHONPATH=.
    python projects/benchmark/bench.py             # some minutes
    python projects/benchmark/bench.py --full      # more heads, images and budgets
    python projects/benchmark/bench.py --gpu       # large batches and half precision, for a GPU
    python projects/benchmark/bench.py --smoke     # seconds, to see that it works

``--only rois`` leaves the whole steps out, ``--only steps`` all but them. Prints tables of ratios;
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
from dataclasses import asdict
from pathlib import Path

import torch
from bench_settings import DEMO, FULL, GPU, GPU_STEPS, QUICK, R50, SMOKE, Point
from bench_tables import plot, point_table, step_table
from detectron2.utils.events import EventStorage
from heads import VARIANTS, Inputs, build, clear_gradients, scoring_forward, training_step
from measure import Step, interleaved, machine, parts, peak_bytes
from whole_step import Whole, model_steps

from ohem_d2.mining.scoring import chunk_size_for
from ohem_d2.tools.files import write_atomically

# The ways to score of which the bound takes the faster. OHEM takes the RoIs in the same order.
ALL, CHUNKS = "scoring, all at a time", "scoring, OHEM's chunks"
ROOT = Path(__file__).resolve().parents[2]


def main(argv: Sequence[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description="What mining costs; see the file's head.")
    size = parser.add_mutually_exclusive_group()
    for name in ("--full", "--gpu", "--smoke"):
        size.add_argument(name, action="store_true")
    parser.add_argument("--only", choices=["rois", "steps"])
    parser.add_argument("--rounds", type=int, default=None, help="default: 7; of --smoke: 1")
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
    """Leaves a setting out for which the device has no memory."""
    try:
        yield
    except RuntimeError as e:
        if "out of memory" not in str(e):
            raise
        print(f"{setting}: left out, the device's memory is too small\n")


def measure(point: Point, rounds: int, device: str) -> dict:
    if point not in QUICK + SMOKE and device == "cpu":
        rounds = min(rounds, 3)  # they take long, and the targets are about the others
    # C4 has no box head for the screening, and no loss layer.
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
        # Not the fastest of each round, which would be lower than what any way can do.
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


if __name__ == "__main__":
    main()
