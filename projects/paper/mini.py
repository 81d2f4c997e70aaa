"""
Table 1 in miniature: its thirteen rows, classic bootstrapping and the loss layer. The data are the
demo's aerial photographs with proposals of selective search. Two CPU cores can train its two small
networks. ::

    make table1-mini                     # three seeds each
    make table1-mini ARGS=--quick        # does everything run?

The same command continues an interrupted run where it stopped.
"""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path

from ohem_d2.tools.errors import errors_in_one_line
from ohem_d2.tools.files import write_atomically
from projects.paper.ohem_paper.proposals.making import by_selective_search
from projects.paper.run_table import PROJECT, find_rows, on_data, run_table
from projects.tree_crowns.prepare_data import DATA, ROOT, prepare

CONFIGS = PROJECT / "configs/mini"
OTHER_ROWS = ["loss_layer_vgg16_n2", "bootstrapping_vgg16_n2"]
STEP = 160  # pixels between the corners of training tiles; the demo has 80
QUICK = ["SOLVER.MAX_ITER", "4", "SOLVER.STEPS", "(3,)", "SOLVER.CHECKPOINT_PERIOD", "2"]
QUICK += ["BOOTSTRAP.ROUNDS", "2", "INPUT.MIN_SIZE_TRAIN", "(96,)", "INPUT.MIN_SIZE_TEST", "96"]
QUICK_IMAGES = 4


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Table 1 in miniature; see the docstring.")
    add = parser.add_argument
    add("--quick", action="store_true", help="few small images, few iterations, one seed")
    add("--seeds", type=int, nargs="+", default=[1, 2, 3])
    add("--rows", nargs="+")
    add("--jobs", type=int, default=2, help="runs at a time, with one thread each")
    add("--data", type=Path, default=ROOT / "datasets/table1_mini", help="folder for proposals")
    add("--output", type=Path)
    add("overrides", nargs="*", metavar="KEY VALUE")
    args = parser.parse_args(argv)
    name = "tree_crowns" + "_quick" * args.quick
    # Runs are processes that share the cores; they inherit this.
    os.environ["OMP_NUM_THREADS"] = "1"
    with errors_in_one_line("mini.py"):
        rows = find_rows(CONFIGS, args.rows)
        rows += [] if args.rows else find_rows(CONFIGS, OTHER_ROWS)
        settings = prepare_data(args.data / name, args.quick, args.jobs) + args.overrides
        settings += QUICK if args.quick else []
        seeds = [1] if args.quick else list(dict.fromkeys(args.seeds))
        output = args.output or ROOT / f"output/table1_mini_{name}"
        run_table(rows, seeds, output, ["cpu"] * args.jobs, settings)


def prepare_data(folder: Path, quick: bool, workers: int) -> list[str]:
    """
    Make the data and the proposals that are missing, for few images if ``quick``, in ``workers``
    threads. Returns the overrides that name them.
    """
    prepare(DATA)

    overrides = []
    for split, step in (("train", STEP), ("test", 1)):
        file, proposals = folder / f"{split}.json", folder / f"{split}.pkl"
        write_subset(DATA / file.name, file, step, QUICK_IMAGES if quick else None)
        name = f"coco:{file}:{DATA / 'tiles'}"
        if not proposals.exists():
            by_selective_search(name, proposals, workers=workers, min_size=8, max_proposals=1000)
        overrides += on_data(split.upper(), [name], [str(proposals)])
    return overrides


def write_subset(source: Path, target: Path, step: int, num: int | None) -> None:
    """
    Write COCO JSON of the tiles whose corners (in their names) are multiples of ``step`` pixels, or
    of ``num`` of them, spread evenly (None: all).
    """
    coco = json.loads(source.read_text())
    corners = ((Path(i["file_name"]).stem.split("_")[-2:], i) for i in coco["images"])
    images = [image for corner, image in corners if not any(int(x) % step for x in corner)]
    images = images[:: max(len(images) // num, 1)][:num] if num else images
    ids = {image["id"] for image in images}
    coco["images"] = images
    coco["annotations"] = [a for a in coco["annotations"] if a["image_id"] in ids]
    write_atomically(target, json.dumps(coco))


if __name__ == "__main__":
    main()
