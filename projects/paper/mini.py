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
import os
from collections.abc import Sequence
from pathlib import Path

from ohem_paper import miniature
from ohem_paper.table.rows import find_rows, run_table

from projects.tree_crowns.prepare_data import ROOT

PCB = [
    *miniature.PCB_SIZE,
    *("SOLVER.MAX_ITER", "400", "SOLVER.STEPS", "(280,)"),
    # Of the RPN's 1,000 proposals; more find next to nothing
    *("DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN", "500"),
    *("DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST", "500"),
]
QUICK = [*miniature.QUICK_SCHEDULE, "BOOTSTRAP.ROUNDS", "2"]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Table 1 in miniature; see the file's head.")
    parser.add_argument("--deeppcb", type=Path, metavar="FOLDER")
    parser.add_argument("--quick", action="store_true", help="few images, iterations, one seed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--rows", nargs="+")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, of a thread each")
    data = ROOT / "datasets/table1_mini"
    parser.add_argument("--data", type=Path, default=data, help="proposals (default: %(default)s)")
    parser.add_argument("--output", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE")
    args = parser.parse_args(argv)
    kind = "deeppcb" if args.deeppcb else "tree_crowns"
    suffix = "_quick" if args.quick else ""
    folder = args.data / (kind + suffix)
    # Runs are processes that share the cores; they inherit this.
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        if args.deeppcb:
            rows = find_rows(miniature.CONFIGS, args.rows or ["2", "4", "10", "13"])
            overrides = miniature.prepare_deeppcb(args.deeppcb, folder, args.quick) + PCB
        else:
            rows = find_rows(miniature.CONFIGS, args.rows)
            if not args.rows:
                names = ["loss_layer_vgg16_n2", "bootstrapping_vgg16_n2"]
                rows += find_rows(miniature.CONFIGS, names)
            overrides = miniature.prepare_tree_crowns(folder, args.quick, args.jobs)
        run_table(
            rows,
            [1] if args.quick else list(dict.fromkeys(args.seeds)),
            args.output or ROOT / "output" / f"table1_mini_{kind}{suffix}",
            ["cpu"] * args.jobs,
            [*overrides, *args.overrides, *(QUICK if args.quick else ())],
            f"Table 1 in miniature, {kind}",
        )
    except (OSError, RuntimeError, ValueError) as e:
        raise SystemExit(str(e)) from e


if __name__ == "__main__":
    main()
