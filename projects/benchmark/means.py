"""
Means to make the read-only pass cheaper, side by side: its forward over R RoIs of an FPN head, in
chunks of several sizes, in other precisions and memory formats, compiled. ::

    python projects/benchmark/means.py

What a mean leaves of the time is one thing, whether the same RoIs are mined another: see
agreement.py.
"""

import argparse
import copy
import statistics
from collections.abc import Sequence

import torch
from heads import Inputs, build, scoring_forward
from measure import Step, in_words, interleaved, machine

from ohem_d2.tools.runs import markdown_table


def main(argv: Sequence[str] | None = None) -> dict[str, list[float]]:
    parser = argparse.ArgumentParser(description="Means to score faster; see the file's head.")
    parser.add_argument("--rois", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args(argv)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    heads = build("fpn", ["readonly"], 128, device)["readonly"]
    inputs = Inputs("fpn", 1, args.rois, device)
    times = interleaved(means(heads, inputs), args.rounds, device, lambda: None)
    print(f"{machine(device)}; scoring forward over {args.rois} RoIs, medians of {args.rounds}\n")
    rows = []
    for name, taken in times.items():
        over = in_words(taken, times["chunks of 256"])
        rows.append([name, f"{statistics.median(taken):.3f}", over])
    print("\n".join(markdown_table(["mean", "s", "of chunks of 256"], rows)))
    return times


def means(heads: torch.nn.Module, inputs: Inputs) -> dict[str, Step]:
    near, last, compiled = inputs.tile_by_tile(), copy.copy(inputs), copy.copy(heads)
    last.features = {
        name: f.detach().contiguous(memory_format=torch.channels_last)
        for name, f in inputs.features.items()
    }
    compiled._modules = dict(heads._modules)
    compiled.box_head = torch.compile(heads.box_head, dynamic=True)
    sizes = (128, 256, 512, 640, 1024)
    steps = {f"chunks of {size}": scoring_forward(heads, inputs, size) for size in sizes}
    plain = steps["chunks of 256"]

    def in_bfloat16() -> None:
        with torch.autocast(inputs.images.device.type, dtype=torch.bfloat16):
            plain()

    return {
        **steps,
        "all at once": scoring_forward(heads, inputs, 10**9),
        "chunks of 256, tile by tile": scoring_forward(heads, near, 256),
        "all at once, tile by tile": scoring_forward(heads, near, 10**9),
        "bfloat16": in_bfloat16,
        "channels last": scoring_forward(heads, last, 256),
        "compiled box head": scoring_forward(compiled, inputs, 256),
    }


if __name__ == "__main__":
    main()
