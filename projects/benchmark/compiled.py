"""
``torch.compile`` and CUDA graphs around the training step: what works, and what it brings. ::

    python projects/benchmark/compiled.py --images 2 --rois 1000 --precision float16

The losses of each way are compared with those of the step as it is.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence

import torch
from detectron2.utils.events import EventStorage
from measure import in_words, interleaved, machine
from torch import nn
from whole_step import MODELS, STEPS, Whole, models_and_batch, step_of

from ohem_d2.tools.runs import markdown_table

# What a way does to the model. CUDA graphs need shapes that stay: those of the backbone do as long
# as images have one size, those of the RoIs as long as all images have as many.
WAYS: dict[str, Callable[[nn.Module, str], None]] = {
    "as it is": lambda model, backend: None,
    "backbone compiled": lambda model, backend: model.backbone.compile(backend=backend),
    "backbone in CUDA graphs": lambda model, backend: model.backbone.compile(
        backend=backend, mode="reduce-overhead"
    ),
    "box head compiled": lambda model, backend: model.roi_heads.box_head.compile(
        backend=backend, dynamic=True
    ),
    "model compiled": lambda model, backend: model.compile(backend=backend),
}


def main(argv: Sequence[str] | None = None) -> dict[str, list[float]]:
    parser = argparse.ArgumentParser(description="What compiling brings; see the file's head.")
    parser.add_argument("--model", default="R50-FPN", choices=MODELS)
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--rois", type=int, default=1000)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--variant", default="readonly 128", choices=STEPS)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args(argv)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    whole = Whole(args.model, args.rois, args.images, args.precision)
    print(f"{machine(device)}; {whole}, {args.variant}; medians of {args.rounds}\n")
    steps, losses, rows = {}, {}, []
    with EventStorage():
        for way in args.ways:
            models, batch = models_and_batch(whole, device, (args.variant,))
            model = models[args.variant]
            step, reset = step_of(model, batch, whole, device)
            try:
                WAYS[way](model, args.backend)
                for _ in range(2):  # compiles; CUDA graphs are recorded after a first run
                    reset()
                    losses[way] = step()
            except Exception as e:  # whatever a compiler raises is what is asked for
                rows.append([way, "", "", f"fails: {str(e).strip().splitlines()[0][:100]}"])
                continue
            steps[way] = lambda step=step, reset=reset: (reset(), step())
        times = interleaved(steps, args.rounds, device, lambda: None)
    first = args.ways[0]
    for way, taken in times.items():
        over = in_words(taken, times[first])
        apart = abs(losses[way] / losses[first] - 1)
        rows.append([way, f"{1e3 * statistics.median(taken):.1f}", over, f"{apart:.1e}"])
    head = ["way", "ms", f"over {first}", "loss, relative difference"]
    print("\n".join(markdown_table(head, rows)))
    return times


if __name__ == "__main__":
    main()
