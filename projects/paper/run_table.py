"""
Rows of Table 1, several seeds each, and the table with the paper's figures beside ours. ::

    export PYTHONPATH=.
    python projects/paper/run_table.py --devices cuda:0 cuda:1            # all rows on VOC07
    python projects/paper/run_table.py --rows 2 13 --seeds 1 2 3 \\
        --train-data coco:train.json:images --train-proposals train.pkl \\
        --test-data coco:test.json:images --test-proposals test.pkl \\
        -- SOLVER.MAX_ITER 20000 SOLVER.STEPS "(15000,)"
    python projects/paper/run_table.py --only-report                      # of what is finished

Rows are the numbered files in ``--configs``, or those that ``--rows`` names. The same command goes
on with what was killed, and keeps what is finished. It writes ``table.md`` and, for runs with
TRAINING_LOSS.PERIOD, ``training_loss.png``.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ohem_d2.tools.cli import add_shared_arguments
from ohem_d2.tools.errors import errors_in_one_line
from projects.paper.ohem_paper.rows import PROJECT, find_rows, on_data, run_table


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    devices = () if args.only_report else args.devices
    how = args.threads, ["--trust"] * args.trust
    with errors_in_one_line("run_table.py"):
        rows = find_rows(args.configs, args.rows)
        run_table(rows, args.seeds, args.output, devices, args.overrides, *how)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run rows of Table 1; see the file's head.")
    parser.add_argument("--configs", type=Path, default=PROJECT / "configs/voc07", help="folder")
    parser.add_argument("--rows", nargs="+", help="numbers, or names of files; all numbered ones")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--output", type=Path, default=Path("output/table1"))
    parser.add_argument("--devices", nargs="+", default=["cuda:0"], help="cuda:0 cuda:1, cpu cpu")
    parser.add_argument("--threads", type=int, help="of each process")
    parser.add_argument("--only-report", action="store_true", help="train nothing")
    add_shared_arguments(parser, "--trust")
    for split in ("train", "test"):
        parser.add_argument(f"--{split}-data", nargs="+", help="instead of the configurations'")
        parser.add_argument(f"--{split}-proposals", nargs="+", help="a file for each of them")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE")
    args = parser.parse_args(argv)
    args.seeds = list(dict.fromkeys(args.seeds))
    if len(args.test_data or ()) > 1:
        parser.error("--test-data: one data set, so that there is one figure for a run")
    for split in ("train", "test"):
        data, files = getattr(args, f"{split}_data"), getattr(args, f"{split}_proposals")
        if len(data or ()) != len(files or ()):
            parser.error(f"--{split}-data and --{split}-proposals: one file for each data set")
        args.overrides += on_data(split.upper(), data, files) if data else []
    return args


if __name__ == "__main__":
    main()
