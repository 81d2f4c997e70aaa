"""
One training step on a GPU's time line: kernels launched, where the host waits for the device, and
how long the device is idle meanwhile. ::

    PYTHONPATH=. python projects/benchmark/timeline.py --images 2 --rois 1000 --precision float16

Writes the trace of each variant, for chrome://tracing, to ``--output``.
"""

import argparse
import json
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from detectron2.utils.events import EventStorage
from measure import interleaved, machine, profiled
from whole_step import MODELS, STEPS, Whole, model_steps

from ohem_d2.tools.runs import markdown_table

ROOT = Path(__file__).resolve().parents[2]
ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
MOST = 10  # of each list


def main(argv: Sequence[str] | None = None) -> dict[str, dict]:
    parser = argparse.ArgumentParser(description="A step's time line; see the file's head.")
    parser.add_argument("--model", default="R50-FPN", choices=MODELS)
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--rois", type=int, default=1000)
    parser.add_argument("--precision", default="float32")
    variants = ["plain 512", "plain 128", "readonly 128"]
    parser.add_argument("--variants", nargs="+", default=variants, choices=STEPS)
    parser.add_argument("--output", type=Path, default=ROOT / "output/timeline")
    args = parser.parse_args(argv)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    args.output.mkdir(parents=True, exist_ok=True)
    whole = Whole(args.model, args.rois, args.images, args.precision)
    steps, reset = model_steps(whole, device, args.variants)
    print(f"{machine(device)}; {whole}\n")
    found, rows = {}, []
    with EventStorage():
        times = interleaved(steps, 5, device, reset)
        for name, step in steps.items():
            reset()
            path = args.output / f"{name.replace(' ', '_')}.json"
            profiled(step, device).export_chrome_trace(str(path))
            of = found[name] = summary(json.loads(path.read_text())["traceEvents"])
            share = f"{1 - of['busy'] / of['span']:.2f}" if of["span"] else ""
            counts = str(of["kernels"]), str(sum(of["waits"].values()))
            idle = f"{of['busy']:.1f}", f"{of['span'] - of['busy']:.1f}", share
            rows.append([name, f"{1e3 * statistics.median(times[name]):.1f}", *counts, *idle])
    head = ["variant", "ms", "kernels", "waits", "device busy, ms", "idle, ms", "idle share"]
    print("\n".join(markdown_table(head, rows)))
    for name, of in found.items():
        print(f"\n{name}")
        for what in ("waits", "gaps", "time"):
            print(f"  {what}:", *(f"{key} {n:.4g}," for key, n in of[what].most_common(MOST)))
    return found


def summary(events: list[dict]) -> dict:
    """
    A trace in numbers: ``kernels``; ``busy`` and ``span``, milliseconds of the device without and
    with its idle gaps; by the range of the host in which they fall (``ohem/...`` or an operator)
    ``waits``, how often the host waits, and ``gaps``, milliseconds in which the device is idle;
    ``time``, milliseconds by kernel.
    """
    whole = [event for event in events if event.get("ph") == "X"]
    ran = sorted((e for e in whole if e.get("cat") in ON_DEVICE), key=lambda e: e["ts"])
    ranges = [e for e in whole if e.get("cat") in ("user_annotation", "cpu_op")]
    waiting = (e for e in whole if e.get("cat") == "cuda_runtime" and e["name"] in WAITS)
    same_thread = ((e, [r for r in ranges if r.get("tid") == e.get("tid")]) for e in waiting)
    waits = Counter(place(e["ts"], around) for e, around in same_thread)
    busy, gaps, time = 0.0, Counter(), Counter()
    start = end = ran[0]["ts"] if ran else 0.0
    for event in ran:
        if event["ts"] > end:
            # what the host was doing when the device ran out of work
            gaps[place(end, ranges)] += (event["ts"] - end) / 1e3
        stop = event["ts"] + event["dur"]
        busy += max(stop - max(end, event["ts"]), 0.0) / 1e3
        end = max(end, stop)
        time[event["name"][:60]] += event["dur"] / 1e3
    kernels, span = sum(e["cat"] == "kernel" for e in ran), (end - start) / 1e3
    found = {"kernels": kernels, "waits": waits, "busy": busy, "span": span}
    return {**found, "gaps": gaps, "time": time}


def place(moment: float, ranges: list[dict]) -> str:
    """The innermost of the package's own ranges at that moment, else the outermost operator."""
    around = [r for r in ranges if r["ts"] <= moment <= r["ts"] + r["dur"]]
    own = [r for r in around if r["name"].startswith("ohem/")]
    if own:
        return min(own, key=lambda r: r["dur"])["name"]
    return max(around, key=lambda r: r["dur"])["name"] if around else "between operators"


if __name__ == "__main__":
    main()
