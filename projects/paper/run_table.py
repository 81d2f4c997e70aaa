"""
Run rows of Table 1 with several seeds, and write a table with the paper's and our numbers. ::

    export PYTHONPATH=.
    python projects/paper/run_table.py --devices cuda:0 cuda:1            # all rows on VOC07
    python projects/paper/run_table.py --rows 2 13 --seeds 1 2 3 \\
        --train-data coco:train.json:images --train-proposals train.pkl \\
        --test-data coco:test.json:images --test-proposals test.pkl \\
        -- SOLVER.MAX_ITER 20000 SOLVER.STEPS "(15000,)"
    python projects/paper/run_table.py --only-report                      # of finished runs

Rows are the numbered files in ``--configs``, or those that ``--rows`` names. The same command
continues killed runs and keeps finished ones. It writes ``table.md`` and, for runs with
TRAINING_LOSS.PERIOD, ``training_loss.png``.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from matplotlib.figure import Figure

from ohem_d2.tools import runs
from ohem_d2.tools.cli import add_shared_arguments, device
from ohem_d2.tools.errors import InputError, errors_in_one_line, input_errors

PROJECT = Path(__file__).resolve().parent
Results = dict[str, dict[int, dict]]  # by the name of a row, by seed, as result.json has it

# mAP on VOC07 test by row, from Table 1 of the paper; only rows 12 and 13 are confirmed, see README
PAPER_MAP = {
    **{1: 59.6, 2: 67.2, 3: 57.2, 4: 67.5, 5: 66.3, 6: 66.3, 7: 57.7},
    **{8: 60.4, 9: 67.5, 10: 68.7, 11: 69.7, 12: 62.0, 13: 69.9},
}


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    devices = () if args.only_report else args.devices
    how = args.threads, ["--trust"] * args.trust
    with errors_in_one_line("run_table.py"):
        rows = find_rows(args.configs, args.rows)
        run_table(rows, args.seeds, args.output, devices, args.overrides, *how)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run rows of Table 1; see the docstring.")
    add = parser.add_argument
    add("--configs", type=Path, default=PROJECT / "configs/voc07", help="folder")
    add("--rows", nargs="+", help="numbers or file names (default: all numbered ones)")
    add("--seeds", type=int, nargs="+", default=[1, 2, 3])
    add("--output", type=Path, default=Path("output/table1"))
    add("--devices", nargs="+", type=device, default=["cuda:0"], help="cuda:0 cuda:1, cpu cpu")
    add("--threads", type=int, help="threads of each process")
    add("--only-report", action="store_true", help="train nothing")
    add_shared_arguments(parser, "--trust")
    for split in ("train", "test"):
        add(f"--{split}-data", nargs="+", default=[], help="instead of the configurations'")
        add(f"--{split}-proposals", nargs="+", default=[], help="one file per data set")
    add("overrides", nargs="*", metavar="KEY VALUE")
    args = parser.parse_args(argv)
    args.seeds = list(dict.fromkeys(args.seeds))
    if len(args.test_data) > 1:
        parser.error("--test-data: one data set, so that there is one figure for a run")
    for split in ("train", "test"):
        data, files = getattr(args, f"{split}_data"), getattr(args, f"{split}_proposals")
        if len(data) != len(files):
            parser.error(f"--{split}-data and --{split}-proposals: one file for each data set")
        args.overrides += on_data(split.upper(), data, files) if data else []
    return args


def find_rows(folder: Path, wanted: Sequence[str] | None = None) -> list[Path]:
    """
    The files of rows by their numbers ("13") or names ("bootstrapping_vgg16_n2"); all numbered ones
    if None. Raises InputError if there is no such row, or none at all.
    """
    files = {file.stem: file for file in sorted(folder.glob("*.yaml"))}
    if wanted is None:
        numbered = [file for stem, file in files.items() if number_of(stem)]
        if not numbered:
            raise InputError(f"--configs {folder}: there is no NUMBER_NAME.yaml in this folder")
        return numbered
    rows = []
    for name in wanted:
        found = [f for s, f in files.items() if s == name or str(number_of(s)) == name]
        if not found:
            raise InputError(f"--rows {name}: no such row in {folder}; there are {list(files)}")
        rows += found
    return list(dict.fromkeys(rows))


def number_of(stem: str) -> int | None:
    """The number of a row, from the name of its file."""
    head = stem.partition("_")[0]
    return int(head) if head.isdecimal() else None


def on_data(split: str, data: Sequence[str], proposals: Sequence[str]) -> list[str]:
    """Overrides that set data sets and their proposal files, for "TRAIN" or "TEST"."""
    values = {split: data, f"PROPOSAL_FILES_{split}": proposals}
    return [w for key, value in values.items() for w in (f"DATASETS.{key}", str(tuple(value)))]


def run_table(
    rows: Sequence[Path],
    seeds: Sequence[int],
    output: Path,
    devices: Sequence[str],
    overrides: Sequence[str] = (),
    threads: int | None = None,
    flags: Sequence[str] = (),
) -> None:
    """
    Do the missing runs in the output folder (see :func:`ohem_d2.tools.runs.run_all`), or none if
    there are no devices. Then write and print the report. ``flags`` are those of ``train.py``.
    Raises InputError at the end if runs failed, which says where to look.
    """
    variants = [variant_of(row, overrides, flags) for row in rows]
    failed = runs.run_all(variants, seeds, output, devices, threads) if devices else []
    results = {variant.name: runs.results_of(variant, seeds, output) for variant in variants}
    output.mkdir(parents=True, exist_ok=True)
    text = "\n".join(table(results))
    (output / "table.md").write_text(text + "\n")
    print(text)
    draw_training_loss(results, output / "training_loss.png")
    if failed:
        raise InputError(f"{len(failed)} runs failed; see {', '.join(map(str, failed))}")


def variant_of(row: Path, overrides: Sequence[str], flags: Sequence[str] = ()) -> runs.Variant:
    def command(seed: int, device: str, folder: Path) -> list[str]:
        train = [sys.executable, "-W", "ignore", str(PROJECT / "train.py"), "--result", "--resume"]
        own = ["OUTPUT_DIR", str(folder), "SEED", str(seed), "MODEL.DEVICE", device]
        return [*train, *flags, "--config-file", str(row), *own, *overrides]

    return runs.Variant(row.stem, settings_of(row, overrides), command)


def settings_of(row: Path, overrides: Sequence[str]) -> str:
    """Fingerprint of the row's configuration, with its bases, and the overrides."""
    with input_errors(str(row)):
        recipe = CfgNode.load_yaml_with_base(str(row))
    return runs.fingerprint(json.dumps(recipe, sort_keys=True), *overrides)


def table(results: Results) -> list[str]:
    """Markdown: a row for each configuration, mean ± standard deviation over the seeds."""
    rows = []
    for row, by_seed in results.items():
        number, finished = number_of(row), list(by_seed.values())
        seconds = runs.mean_and_spread([run["seconds"] for run in finished], 2)
        if any(sweeps := [run["sweep_seconds"] for run in finished]):
            seconds += f", and {np.mean(sweeps):.2f} in sweeps"
        cells = [number or "", row.partition("_")[2] if number else row, len(finished)]
        for metric in ("AP50", "AP"):
            values = [r["metrics"][metric] for r in finished if metric in r["metrics"]]
            cells.append(runs.mean_and_spread(values, 1))
        peak = runs.mean_and_spread([run["peak_bytes"] / 2**30 for run in finished], 2)
        rows.append([str(cell) for cell in (*cells, PAPER_MAP.get(number, ""), seconds, peak)])
    header = ["#", "experiment", "seeds", "AP50", "AP", "paper: mAP", "s / iteration", "peak GB"]
    note = "The paper's figures are confirmed only for rows 12 and 13, see README.md."
    return [*runs.markdown_table(header, rows), "", note]


def draw_training_loss(results: Results, target: Path) -> None:
    """Draw the training loss of each row. Writes nothing if no run measured it."""
    figure = Figure(figsize=(6, 4), layout="tight")
    axes = figure.subplots()
    for row, by_seed in results.items():
        if losses := [run["training_loss"] for run in by_seed.values() if run["training_loss"]]:
            # iterations that all seeds have, as numbers
            iterations = sorted(set.intersection(*(set(map(int, loss)) for loss in losses)))
            means = [statistics.mean(loss[str(i)] for loss in losses) for i in iterations]
            axes.plot(iterations, means, "o-", label=row)
    if axes.lines:
        label = "mean loss over all RoIs of the training set"
        axes.set(xlabel="iteration", ylabel=label, yscale="log")
        axes.legend()
        figure.savefig(target, dpi=120)


if __name__ == "__main__":
    main()
