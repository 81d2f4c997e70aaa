"""
Table 1 in miniature: its thirteen rows, and classic bootstrapping and the loss layer beside them,
on the demo's aerial photographs with proposals of selective search and two small networks that two
CPU cores train. ::

    make table1-mini                                                     # three seeds each
    make table1-mini ARGS=--quick                                        # does everything run?
    PYTHONPATH=. python projects/paper/mini.py --deeppcb FOLDER          # rows 2, 4, 10, 13

FOLDER is of DeepPCB (Tang et al. 2019) in COCO format: ``images/``, ``instances_train.json`` and
``instances_test.json``. Selective search finds none of its defects, which are changes of thin
lines; an RPN proposes there. Interrupted, the same command goes on where it was.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import make_proposals
import run_table

from projects.tree_crowns import prepare_data

HERE = Path(__file__).resolve().parent
CONFIGS = HERE / "configs/mini"
DATA = prepare_data.ROOT / "datasets" / "table1_mini"

STEP = 160  # pixels between the corners of training tiles, of which the demo has twice as many
# Of DeepPCB's 1,000 and 500 images, for the sake of time; spread evenly
PCB_IMAGES = {"train": 250, "test": 167}
PCB_SIZE = ["INPUT.MIN_SIZE_TRAIN", "(480,)", "INPUT.MIN_SIZE_TEST", "480"]
PCB_SCHEDULE = ["SOLVER.MAX_ITER", "400", "SOLVER.STEPS", "(280,)"]
# Of the RPN's 1,000 proposals; more find next to nothing
PCB_PROPOSALS = ["DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN", "500"]
PCB_PROPOSALS += ["DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST", "500"]
QUICK_SCHEDULE = ["SOLVER.MAX_ITER", "4", "SOLVER.STEPS", "(3,)", "SOLVER.CHECKPOINT_PERIOD", "2"]
QUICK = [*QUICK_SCHEDULE, "BOOTSTRAP.ROUNDS", "2"]
QUICK_IMAGES = 6


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Table 1 in miniature; see the file's head.")
    parser.add_argument("--deeppcb", type=Path, metavar="FOLDER")
    parser.add_argument("--quick", action="store_true", help="few images, iterations, one seed")
    parser.add_argument("--seeds", nargs="+", default=["1", "2", "3"])
    parser.add_argument("--rows", nargs="+")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, of a thread each")
    parser.add_argument("--data", type=Path, help=f"folder for proposals (default: {DATA})")
    parser.add_argument("--output", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE")
    args = parser.parse_args(argv)
    kind = "deeppcb" if args.deeppcb else "tree_crowns"
    suffix = "_quick" if args.quick else ""
    folder = (args.data or DATA) / (kind + suffix)
    folder.mkdir(parents=True, exist_ok=True)
    # Runs are processes that share the cores; they inherit this.
    os.environ["OMP_NUM_THREADS"] = "1"
    if args.deeppcb:
        data = prepare_deeppcb(args.deeppcb, folder, args.quick)
        rows = ["2", "4", "10", "13"]
    else:
        data = prepare_tree_crowns(folder, args.quick, args.jobs)
        rows = [row.stem for row in run_table.find_rows(CONFIGS, None)]
        rows += ["loss_layer_vgg16_n2", "bootstrapping_vgg16_n2"]
    output = args.output or prepare_data.ROOT / "output" / f"table1_mini_{kind}{suffix}"
    pcb = [*PCB_SIZE, *PCB_SCHEDULE, *PCB_PROPOSALS] if args.deeppcb else []
    overrides = [*pcb, *args.overrides]
    run_table.main(
        [
            *("--configs", str(CONFIGS), "--output", str(output), *data),
            *("--title", f"Table 1 in miniature, {kind}"),
            *("--rows", *(args.rows or rows)),
            *("--seeds", *(args.seeds if not args.quick else ["1"])),
            *("--devices", *["cpu"] * args.jobs, "--"),
            *(*overrides, *(QUICK if args.quick else ())),
        ]
    )


def prepare_tree_crowns(folder: Path, quick: bool, workers: int) -> list[str]:
    """The arguments of the table that name data and proposals, which are made if missing."""
    prepare_data.prepare(prepare_data.DATA)
    tiles = prepare_data.DATA / "tiles"

    def wide(image: dict) -> bool:
        x, y = map(int, Path(image["file_name"]).stem.split("_")[-2:])
        return x % STEP == y % STEP == 0

    arguments = []
    for split, keep in (("train", wide), ("test", lambda image: True)):
        file = folder / f"{split}.json"
        source = prepare_data.DATA / f"{split}.json"
        write_subset(source, file, keep, QUICK_IMAGES if quick else None)
        proposals = folder / f"{split}.pkl"
        name = f"coco:{file}:{tiles}"
        if not proposals.exists():
            make_proposals.main(
                ["selective-search", name, str(proposals), "--min-size", "8"]
                + ["--max-proposals", "1000", "--workers", str(workers)]
            )
        arguments += [f"--{split}-data", name, f"--{split}-proposals", str(proposals)]
    return arguments


def prepare_deeppcb(source: Path, folder: Path, quick: bool) -> list[str]:
    """The same for DeepPCB; trains a region proposal network first."""
    prepare_data.prepare(prepare_data.DATA)  # the trunk's weights
    names = {}
    for split, num in PCB_IMAGES.items():
        file = folder / f"{split}.json"
        annotations = source / f"instances_{split}.json"
        if not annotations.exists():
            raise SystemExit(f"--deeppcb {source}: {annotations} does not exist")
        write_subset(annotations, file, lambda image: True, QUICK_IMAGES if quick else num)
        names[split] = f"coco:{file}:{source / 'images'}"
    weights = folder / "rpn.pth"
    config = CONFIGS / "rpn.yaml"
    if not weights.exists():
        command = [sys.executable, "-W", "ignore", str(HERE / "train.py"), "--resume"]
        command += ["--config-file", str(config), "OUTPUT_DIR", str(folder / "rpn")]
        command += ["DATASETS.TRAIN", f"('{names['train']}',)", *PCB_SIZE]
        subprocess.run([*command, *(QUICK_SCHEDULE if quick else ())], check=True)
        # The last checkpoint that was written whole, which model_final.pth is not after a kill
        last = (folder / "rpn" / "last_checkpoint").read_text()
        os.replace(folder / "rpn" / last, weights)
    arguments = []
    for split, name in names.items():
        proposals = folder / f"{split}.pkl"
        if not proposals.exists():
            make_proposals.main(
                ["rpn", name, str(proposals), "--config-file", str(config)]
                + ["--weights", str(weights), "--opts", *PCB_SIZE]
            )
        arguments += [f"--{split}-data", name, f"--{split}-proposals", str(proposals)]
    return arguments


def write_subset(source: Path, target: Path, keep: Callable[[dict], bool], num: int | None) -> None:
    """COCO JSON of the images that are kept, ``num`` of them spread evenly (None: all)."""
    coco = json.loads(source.read_text())
    images = [image for image in coco["images"] if keep(image)]
    if num is not None:
        images = images[:: max(len(images) // num, 1)][:num]
    ids = {image["id"] for image in images}
    coco["images"] = images
    coco["annotations"] = [a for a in coco["annotations"] if a["image_id"] in ids]
    with prepare_data.replacing(target) as path:
        path.write_text(json.dumps(coco))


if __name__ == "__main__":
    main()
