"""
The same images on one process and on several: throughput, and whether they take the same step. ::

    python projects/benchmark/several_processes.py --processes 1 2 4      # gloo on a CPU
    python projects/benchmark/several_processes.py --processes 1 2 --model R50-FPN    # NCCL on GPUs

Each process has an equal part of the images, and on a CPU of the threads. The gradients of the ROI
heads, which the processes share, are compared with those of the first number of processes: their
distance over their norm.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from detectron2.engine import create_ddp_model, launch
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from measure import machine, synchronize
from whole_step import MODELS, STEPS, Whole, models_and_batch, step_of

from ohem_d2.tools.runs import markdown_table

ROUNDS = 7


def main(argv: Sequence[str] | None = None) -> dict[int, dict]:
    parser = argparse.ArgumentParser(description="Several processes; see the file's head.")
    parser.add_argument("--model", default="demo", choices=MODELS)
    parser.add_argument("--images", type=int, default=4, help="of all processes together")
    parser.add_argument("--rois", type=int, default=500)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--variant", default="readonly 128", choices=STEPS)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    args = parser.parse_args(argv)
    if any(args.images % number for number in args.processes):
        raise SystemExit(f"--images {args.images} is no multiple of each of {args.processes}")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    whole = Whole(args.model, args.rois, args.images, args.precision)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for number in args.processes:
            path = Path(folder, f"{number}.pth")
            launch(worker, number, dist_url="auto", args=(whole, args.variant, device, str(path)))
            found[number] = torch.load(path, weights_only=True)
    print(f"{machine(device)}; {whole} in all, {args.variant}; medians of {ROUNDS}\n")
    first, rows = found[args.processes[0]], []
    for number, of in found.items():
        apart = (of["gradient"] - first["gradient"]).norm() / first["gradient"].norm()
        seconds = statistics.median(of["times"])
        rate = statistics.median(first["times"]) / seconds
        cells = f"{1e3 * seconds:.1f}", f"{args.images / seconds:.1f}", f"{rate:.2f}"
        rows.append([str(number), *cells, f"{apart:.1e}"])
    head = [
        "processes",
        "ms of a step",
        "images a second",
        "speed-up",
        "gradient, relative distance",
    ]
    print("\n".join(markdown_table(head, rows)))
    return found


def worker(whole: Whole, variant: str, device: str, path: str) -> None:
    number, rank = comm.get_world_size(), comm.get_rank()
    torch.set_num_threads(max((os.cpu_count() or 1) // number, 1))
    models, batch = models_and_batch(whole, device, (variant,))
    model, part = models[variant], len(batch) // number
    heads = model.roi_heads
    if number > 1:
        model = create_ddp_model(model, device_ids=None if device == "cpu" else [rank])
    batch = batch[rank * part : (rank + 1) * part]
    step, reset = step_of(model, batch, whole, device)
    times = []
    with EventStorage():
        for _ in range(ROUNDS + 1):
            reset()
            comm.synchronize()
            synchronize(device)
            start = time.perf_counter()
            step()
            synchronize(device)
            times.append(time.perf_counter() - start)
    gradients = [p.grad.flatten().float().cpu() for p in heads.parameters()]
    if rank == 0:
        of = {"images": len(batch), "times": times[1:], "gradient": torch.cat(gradients)}
        torch.save(of, path)


if __name__ == "__main__":
    main()
