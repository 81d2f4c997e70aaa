"""
Where OHEM helps: tables of samplers on several data sets, over seeds, by ``python -m ohem_d2
compare``. ::

    make evidence ARGS="--data boards=FOLDER plates=FOLDER trees"
    PYTHONPATH=. python projects/evidence/evidence.py --data boards=FOLDER --tables main \\
        --seeds 1 2 3 4 5 --devices cpu cpu --threads 1

The same command again continues killed runs and keeps finished ones. Runs that ``--record`` has
are not repeated. ``--show`` runs nothing: it records finished runs, for example while another
process is at work, and prints the tables.
"""

import argparse
import dataclasses
import json
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from ohem_d2.tools import runs
from ohem_d2.tools.cli import device
from ohem_d2.tools.compare import table, variant_of
from ohem_d2.tools.comparison import plan
from ohem_d2.tools.files import write_atomically
from ohem_d2.tools.load_model import default_cfg, merge
from projects.evidence.experiments import CONFIGS, DATA, TABLES, Data, Setup
from projects.tree_crowns import prepare_data

ROOT = prepare_data.ROOT
MODULES = ("projects.focal",)  # they register heads
QUICK = "SOLVER.MAX_ITER 2 SOLVER.STEPS (1,) SOLVER.WARMUP_ITERS 1 DATALOADER.NUM_WORKERS 0"
QUICK += " MODEL.ROI_HEADS.OHEM.WARMUP_ITERS 0"
METRICS = ("AP", "AP50", "AP75", "false_alarms", "seconds")


@dataclasses.dataclass(frozen=True)
class Case:
    """A variant on a data set: the fields of its records, and how it is run."""

    fields: dict  #: of a record
    run: runs.Variant


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare samplers; see the docstring.")
    add = parser.add_argument
    add("--data", nargs="+", default=["trees"], metavar="NAME=FOLDER", help=f"{', '.join(DATA)}")
    add("--tables", nargs="+", default=list(TABLES), choices=TABLES)
    add("--variants", nargs="+", help="only these variants of the tables")
    add("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    add("--devices", nargs="+", type=device, default=plan.default_devices(), help="cuda:0 cpu")
    add("--threads", type=int, help="threads of each process")
    add("--output", type=Path, default=ROOT / "output/evidence")
    add("--record", type=Path, help="file of finished runs (default: docs/evidence.json)")
    add("--curves", action="store_true", help="also evaluate during training")
    add("--show", action="store_true", help="run nothing: record what is finished, print tables")
    add("--quick", action="store_true", help="two iterations: does everything run?")
    args = parser.parse_args()
    data = dict(map(data_of, args.data))
    if "trees" in data and not args.show:
        prepare_data.prepare(prepare_data.DATA)  # now, so that no two runs do
    default = args.output / "quick.json" if args.quick else ROOT / "docs/evidence.json"
    record, extra = args.record or default, QUICK if args.quick else ""
    cases = {
        (name, of_data): [
            case_of(of_data, fields, variant, setup, extra, args)
            for variant, setup in TABLES[name].items()
            if fields.train_negatives or not setup.with_negatives
            if not args.variants or variant in args.variants
        ]
        for name in args.tables
        for of_data, fields in data.items()
    }
    # each one once, even if several tables have it
    everything = {c.run.name: c for compared in cases.values() for c in compared}.values()
    records, failed = read(record), []
    if not args.show:
        recorded = {(c.run.name, seed) for c in everything for seed in of_case(records, c)}
        how = args.devices, args.threads, recorded
        failed = runs.run_all([c.run for c in everything], args.seeds, args.output, *how)
    records = read(record)  # once more: others may have written meanwhile
    for c in everything:
        known, finished = of_case(records, c), runs.results_of(c.run, args.seeds, args.output)
        new = {seed: result for seed, result in finished.items() if seed not in known}
        records += [record_of(c, seed, result, args.output) for seed, result in new.items()]
    write(record, records)
    show(records, cases)
    if failed:
        raise SystemExit(f"{len(failed)} runs failed; see {', '.join(map(str, failed))}")


def show(records: list[dict], cases: dict[tuple[str, str], list[Case]]) -> None:
    """Print the tables. ``cases`` are by table and data set."""
    for (name, of_data), compared in cases.items():
        found = {c.fields["variant"]: of_case(records, c) for c in compared}
        found = {variant: by_seed for variant, by_seed in found.items() if by_seed}
        if len(found) > 1:
            print("\n".join(["", f"{name}, {of_data}", "", *table(found)]))


def data_of(text: str) -> tuple[str, Data]:
    """From NAME=FOLDER, or NAME where the folder is known."""
    name, _, folder = text.partition("=")
    if name not in DATA or not (folder or DATA[name].folder):
        raise SystemExit(f"--data {text}; allowed: {', '.join(f'{n}=FOLDER' for n in DATA)}")
    return name, dataclasses.replace(DATA[name], folder=folder or DATA[name].folder)


def case_of(
    name: str, data: Data, variant: str, setup: Setup, extra: str, args: argparse.Namespace
) -> Case:
    overrides = f"{setup.overrides} {extra}".split()
    others = {key: value for key, value in vars(setup).items() if value and key != "overrides"}
    cfg = merge(default_cfg(MODULES), str(CONFIGS / f"{name}.yaml"), overrides)
    train = [data.named(data.train, data.images)]
    if setup.missing:
        train = [with_missing(name, data, setup.missing, args.seeds, args.output / "missing")]
    if setup.with_negatives:
        train.append(data.named(data.train_negatives, data.negatives))
        cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = tuple(train), (data.named(data.test, data.images),)
    if args.curves:
        cfg.TEST.EVAL_PERIOD = max(cfg.SOLVER.MAX_ITER // plan.EVALUATIONS, 1)
    negatives = data.test_negatives and data.named(data.test_negatives, data.negatives)
    how = {"modules": MODULES, "negatives": negatives or None}
    number = runs.fingerprint(*overrides, *map(str, others.items()))[:8]
    run = variant_of(variant, cfg, folder=f"{name}/{variant}-{number}", **how)

    def command(seed: int, device: str, folder: Path) -> Sequence[str]:
        if not (began_with := folder / "commit").exists():  # kept when a run is continued
            write_atomically(began_with, commit())
        return run.command(seed, device, folder)

    fields = {"data": name, "variant": variant, "overrides": overrides, **others}
    return Case(fields, dataclasses.replace(run, command=command))


def with_missing(name: str, data: Data, share: float, seeds: Sequence[int], folder: Path) -> str:
    """Training data without a share of the boxes, which are drawn by the seed of a run."""
    full = json.loads(Path(data.folder, data.train).read_text())
    for seed in seeds:
        less = json.dumps(without_boxes(full, share, seed))
        write_atomically(folder / f"{name}_{share}_{seed}.json", less)
    file = folder / f"{name}_{share}_{{seed}}.json"
    return f"coco:{file}:{Path(data.folder, data.images)}"


def without_boxes(coco: dict, share: float, seed: int) -> dict:
    """COCO annotations without a share of the boxes, which are drawn with the seed."""
    boxes = coco["annotations"]
    gone = np.random.default_rng(seed).permutation(len(boxes))[: round(share * len(boxes))]
    gone = set(gone.tolist())
    return {**coco, "annotations": [box for i, box in enumerate(boxes) if i not in gone]}


def record_of(case: Case, seed: int, result: dict, output: Path) -> dict:
    """The record of a run."""
    commit = runs.folder_of(case.run, seed, output) / "commit"
    numbers = {key: round(result[key], 3) for key in METRICS if key in result}
    curve = [[i, round(ap, 2)] for i, ap in result["curve"]]
    how = {"seed": seed, "iterations": case.run.iterations, "commit": commit.read_text()}
    return {**case.fields, **how, **numbers, "curve": curve}


def read(path: Path) -> list[dict]:
    return json.loads(path.read_text()) if path.exists() else []


def write(path: Path, records: Iterable[dict]) -> None:
    """One line per record, sorted, so that a diff shows what is new."""
    ordered = sorted(records, key=lambda r: (r["data"], r["variant"], r["overrides"], r["seed"]))
    write_atomically(path, "[\n" + ",\n".join(map(json.dumps, ordered)) + "\n]\n")


def of_case(records: Iterable[dict], case: Case) -> dict[int, dict]:
    """The records of a variant on a data set by seed."""
    keys = {*case.fields, "missing", "with_negatives"} - {"variant"}
    wanted = {key: case.fields.get(key) for key in keys}
    return {r["seed"]: r for r in records if all(r.get(k) == v for k, v in wanted.items())}


def commit() -> str:
    """The commit of this clone; empty outside of one, and where there is no git."""
    command = ["git", "-C", str(CONFIGS), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:
        return ""


if __name__ == "__main__":
    main()
