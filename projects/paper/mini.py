"""
Table 1 in miniature: its thirteen rows, and classic bootstrapping and the loss layer beside them,
on the demo's aerial photographs with proposals of selective search and two small networks that two
CPU cores train. ::

    make table1-mini                                                     # three seeds each
    make table1-mini ARGS=--quick                                        # does everything run?
    PYTHONPATH=. python projects/paper/mini.py --deeppcb FOLDER          # rows 2, 4, 10, 13

FOLDER is of DeepPCB in COCO format: ``images/``, ``instances_train.json`` and
``instances_test.json``; docs/table1-mini.md says more. Interrupted, the same command goes on where
it was.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from ohem_paper import miniature
from ohem_paper.rows import find_rows, run_table

from projects.tree_crowns.prepare_data import ROOT

PCB = [
    *miniature.PCB_SIZE,
    *("SOLVER.MAX_ITER", "400", "SOLVER.STEPS", "(280,)"),
    # Of the RPN's 1,000 proposals; more find next to nothing
    *("DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN", "500"),
    *("DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST", "500"),
]
PCB_ROWS = ["2", "4", "10", "13"]
OTHER_ROWS = ["loss_layer_vgg16_n2", "bootstrapping_vgg16_n2"]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Table 1 in miniature; see the file's head.")
    add = parser.add_argument
    add("--deeppcb", type=Path, metavar="FOLDER")
    add("--quick", action="store_true", help="few images, iterations, one seed")
    add("--seeds", type=int, nargs="+", default=[1, 2, 3])
    add("--rows", nargs="+")
    add("--jobs", type=int, default=2, help="runs at a time, of a thread each")
    add("--data", type=Path, default=ROOT / "datasets/table1_mini", help="folder for proposals")
    add("--output", type=Path)
    add("overrides", nargs="*", metavar="KEY VALUE")
    args = parser.parse_args(argv)
    kind = "deeppcb" if args.deeppcb else "tree_crowns"
    name = kind + "_quick" * args.quick
    # Runs are processes that share the cores; they inherit this.
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        if args.deeppcb:
            rows = find_rows(miniature.CONFIGS, args.rows or PCB_ROWS)
            settings = miniature.prepare_deeppcb(args.deeppcb, args.data / name, args.quick) + PCB
        else:
            rows = find_rows(miniature.CONFIGS, args.rows)
            rows += [] if args.rows else find_rows(miniature.CONFIGS, OTHER_ROWS)
            settings = miniature.prepare_tree_crowns(args.data / name, args.quick, args.jobs)
        settings += args.overrides
        if args.quick:
            settings += [*miniature.QUICK_SCHEDULE, "BOOTSTRAP.ROUNDS", "2"]
        run_table(
            rows,
            [1] if args.quick else list(dict.fromkeys(args.seeds)),
            args.output or ROOT / f"output/table1_mini_{name}",
            ["cpu"] * args.jobs,
            settings,
            f"Table 1 in miniature, {kind}",
        )
    except (OSError, RuntimeError, ValueError) as e:
        raise SystemExit(str(e)) from e


if __name__ == "__main__":
    main()
