"""
The figures of gpu_first.sh: lines of JSON in FOLDER/figures.jsonl, each as soon as it is known. ::

    python dev/gpu_first.py versions|speed|waits FOLDER
    python dev/gpu_first.py trees FOLDER --runs RUNS
"""

import argparse
import copy
import functools
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import heads as benchmarked
import torch
from detectron2.structures import ImageList
from detectron2.utils.events import EventStorage
from heads import Inputs, Whole, build, clear_gradients, models_and_batch, step_of, training_step
from measure import Step, machine, peak_bytes, profiled
from torch.autograd import DeviceType

from ohem_d2.tools.runs import read_metrics

ON_CPU = "ON_CPU" in os.environ
DEVICE = "cpu" if ON_CPU else "cuda"
# name: variant of the RoI heads, of the whole step
VARIANTS = {
    "random 128": ("plain", "plain 128"),
    "random 512": ("plain 512", "plain 512"),
    "OHEM": ("readonly", "readonly 128"),
    "screening": ("screening", "readonly 128, screening"),
    "loss layer": ("loss_layer", "loss layer 128"),
}
# Batches as the images in them and how often these are repeated, RoIs of an image, model of the
# whole step, steps before those that are timed, and rounds of these by the images of a batch
SIZES = (2, [1, 8], [1000, 2000], "R50-FPN", 2, {2: 10, 16: 4})
SMALL = (1, [2], [60], "demo", 1, {2: 1})
if ON_CPU:
    benchmarked.IMAGE = (128, 160)
    benchmarked.MODELS["demo"] = (benchmarked.MODELS["demo"][0], benchmarked.IMAGE)
    benchmarked.HEADS["fpn"][1].extend(["MODEL.ROI_BOX_HEAD.FC_DIM", 32])
NUM_IMAGES, REPEATS, NUM_ROIS, MODEL, WARMUP, ROUNDS = SMALL if ON_CPU else SIZES
PRECISIONS = ("float32", "bfloat16")
# On a CPU, which has none, what would make the host wait for a GPU
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx")
if ON_CPU:
    WAITS, LAUNCHES = ("aten::_local_scalar_dense", "aten::nonzero"), ("aten::copy_",)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=Path, help="folder of the comparison's runs")
    args = parser.parse_args()
    if not ON_CPU and not torch.cuda.is_available():
        raise SystemExit("gpu_first: torch sees no GPU here; ON_CPU=1 rehearses without one")
    part = PARTS[args.part]
    with open(args.folder / "figures.jsonl", "a") as file:
        for figure in part(args.runs) if part is trees else part():
            file.write(json.dumps({"part": args.part, **figure}) + "\n")
            file.flush()
            print(", ".join(f"{key}: {value}" for key, value in figure.items()), flush=True)


def versions() -> Iterator[dict]:
    """Versions, and a forward and backward of a convolution."""
    yield {"date": time.strftime("%Y-%m-%d"), "python": platform.python_version()}
    yield {"machine": machine(DEVICE), "cuda": torch.version.cuda}
    for name in ("torchvision", "detectron2", "sal-detectron2", "numpy", "pycocotools"):
        try:
            yield {name: version(name)}
        except PackageNotFoundError:  # the wheel of Detectron2 has another name
            continue
    layer = torch.nn.Conv2d(3, 64, 7).to(DEVICE)
    start = time.perf_counter()
    layer(torch.ones(2, 3, 224, 224, device=DEVICE)).sum().backward()
    gradient = layer.weight.grad.abs().sum().item()
    yield {"gradient": gradient, "seconds": time.perf_counter() - start}


def speed() -> Iterator[dict]:
    """The RoI part and the whole step, the small batches first."""
    heads = build("fpn", [of_heads for of_heads, _ in VARIANTS.values()], 128, DEVICE)
    inputs = Inputs("fpn", NUM_IMAGES, max(NUM_ROIS), DEVICE)
    whole = Whole(MODEL, max(NUM_ROIS), NUM_IMAGES)
    models, batch = models_and_batch(whole, DEVICE, [name for _, name in VARIANTS.values()])
    settings = [(r, p) for r in NUM_ROIS for p in PRECISIONS]
    for repeats in REPEATS:
        num = repeats * NUM_IMAGES
        for num_rois, precision in settings:
            part = of_size(inputs, repeats, num_rois, precision)
            steps = {name: training_step(heads[key], part) for name, (key, _) in VARIANTS.items()}
            reset = functools.partial(clear_gradients, heads["readonly"], part)
            setting = {"what": "RoI part", "N": num, "R": num_rois, "precision": precision}
            yield from measured(steps, reset, setting)
        del part, steps, reset
        for num_rois, precision in settings:
            whole, steps = Whole(MODEL, num_rois, num, precision), {}
            for name, (_, key) in VARIANTS.items():
                models[key].proposal_generator.post_nms_topk[True] = num_rois
                steps[name], reset = step_of(models[key], batch * repeats, whole, DEVICE)
            setting = {"what": "whole step", "N": num, "R": num_rois, "precision": precision}
            yield from measured(steps, reset, setting)


def of_size(inputs: Inputs, repeats: int, num_rois: int, precision: str) -> Inputs:
    """The same images so many times, with fewer RoIs."""
    part = copy.copy(inputs)
    part.precision, part.features = precision, {}
    for name, features in inputs.features.items():
        repeated = features.detach().repeat(repeats, 1, 1, 1).to(getattr(torch, precision))
        part.features[name] = repeated.requires_grad_()
    part.images = ImageList(inputs.images.tensor, [benchmarked.IMAGE] * (repeats * NUM_IMAGES))
    part.targets = inputs.targets * repeats
    part._proposals = [proposals[:num_rois] for proposals in inputs._proposals] * repeats
    return part


def measured(steps: dict[str, Step], reset: Step, setting: dict) -> Iterator[dict]:
    """For each step the median in milliseconds and the peak memory in GiB, unless none is left."""
    times, peaks, order = {name: [] for name in steps}, {}, random.Random(0)
    with EventStorage() as storage:
        try:
            for name, step in steps.items():
                for _ in range(WARMUP):
                    reset()
                    peaks[name] = peak_bytes(step, DEVICE)
            for _ in range(ROUNDS[setting["N"]]):
                for name in order.sample(list(steps), len(steps)):
                    reset()
                    times[name].append(milliseconds(steps[name]))
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            yield {**setting, "left out": "the device's memory is too small"}
            return
        # An RPN's NMS may leave fewer than are asked for.
        candidates = storage.latest()["ohem/num_candidates"][0]
    for name in steps:
        found = {"ms": round(statistics.median(times[name]), 2), "rounds": len(times[name])}
        found |= {"GiB": round(peaks[name] / 2**30, 3), "candidates": candidates}
        yield {**setting, "variant": name, **found}


def milliseconds(step: Step) -> float:
    """By CUDA events; on a CPU by the clock."""
    if ON_CPU:
        start = time.perf_counter()
        step()
        return 1e3 * (time.perf_counter() - start)
    torch.cuda.synchronize()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    step()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def waits() -> Iterator[dict]:
    """How often the host waits for the device in a whole step, and in its mining, and launches."""
    whole = Whole(MODEL, min(NUM_ROIS), NUM_IMAGES)
    models, batch = models_and_batch(whole, DEVICE, [name for _, name in VARIANTS.values()])
    for name, (_, key) in VARIANTS.items():
        step, reset = step_of(models[key], batch, whole, DEVICE)
        with EventStorage():
            for _ in range(WARMUP):
                reset()
                step()
            reset()
            events = profiled(step, DEVICE).events()
        # A GPU's own record of a range repeats the host's.
        events = [e for e in events if e.device_type == DeviceType.CPU]
        mining = [e.time_range for e in events if e.name == "ohem/mine"]
        found = {"variant": name}
        for what, names in (("waits", WAITS), ("launches", LAUNCHES)):
            starts = [e.time_range.start for e in events if e.name in names]
            inside = [s for s in starts if any(m.start <= s <= m.end for m in mining)]
            found |= {what: len(starts), f"{what} of mining": len(inside)}
        yield found


def trees(output: Path) -> Iterator[dict]:
    """The comparison on tree crowns: every evaluation, and the results of finished runs."""
    from projects.tree_crowns import demo

    devices = ["cpu"] if ON_CPU else ["cuda:0"] * 3  # a run has little to do for such a GPU
    given = ["--output", str(output), "--samplers", "random:128", "ohem:128"]
    given += ["--seeds", "1" if ON_CPU else "3", "--devices", *devices, "--threads", "2"]
    given += ["SOLVER.MAX_ITER", "1", "INPUT.MIN_SIZE_TEST", "64"] if ON_CPU else []
    compare = subprocess.Popen([sys.executable, "-m", "ohem_d2", *demo.arguments(given)])
    told: set[Any] = set()
    while True:
        running = compare.poll() is None
        for folder in sorted(output.glob("*/seed*")):
            run = {"sampler": folder.parent.name, "seed": int(folder.name.removeprefix("seed"))}
            aps = {r["iteration"]: r["bbox/AP"] for r in read_metrics(folder) if "bbox/AP" in r}
            for iteration, ap in aps.items():
                if (folder, iteration) not in told:
                    yield {**run, "iteration": iteration + 1, "AP": ap}
            result = folder / "result.json"
            if result.exists() and folder not in told:
                yield {**run, **json.loads(result.read_text())}
                told.add(folder)
            told |= {(folder, iteration) for iteration in aps}
        if not running:
            break
        time.sleep(1)
    if compare.returncode:
        raise SystemExit(compare.returncode)


PARTS = {"versions": versions, "speed": speed, "waits": waits, "trees": trees}

if __name__ == "__main__":
    main()
