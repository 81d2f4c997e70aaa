"""
Where OHEM helps: variants of the sampler on several data sets, over seeds. ::

    make evidence ARGS="--data boards=FOLDER plates=FOLDER trees"
    PYTHONPATH=. python projects/evidence/evidence.py --data boards=FOLDER --tables main \\
        --seeds 1 2 3 4 5 --devices cpu cpu --threads 1

The same command again goes on with what was killed, and keeps what is finished. Runs that
``--record`` has are not repeated. ``--show`` runs nothing: it records what is finished, as while
another process is at work, and prints the tables.
"""

import argparse
import dataclasses
import itertools
import json
import sys
from collections.abc import Iterable
from pathlib import Path

import torch
from detectron2.config import CfgNode

from ohem_d2.tools import runs
from ohem_d2.tools.files import write_atomically
from projects.evidence import run, tables
from projects.evidence.experiments import CONFIGS, DATA, TABLES, Data, Setup
from projects.tree_crowns import prepare_data

ROOT = prepare_data.ROOT
QUICK = "SOLVER.MAX_ITER 2 SOLVER.STEPS (1,) SOLVER.WARMUP_ITERS 1 DATALOADER.NUM_WORKERS 0"
QUICK += " MODEL.ROI_HEADS.OHEM.WARMUP_ITERS 0"


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare samplers; see the file's head.")
    add, device = parser.add_argument, "cuda" if torch.cuda.is_available() else "cpu"
    add("--data", nargs="+", default=["trees"], metavar="NAME=FOLDER", help=f"{', '.join(DATA)}")
    add("--tables", nargs="+", default=list(TABLES), choices=TABLES)
    add("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    add("--devices", nargs="+", default=[device], help="cuda:0 cuda:1, cpu cpu")
    add("--threads", type=int, help="of each process")
    add("--output", type=Path, default=ROOT / "output/evidence")
    add("--record", type=Path, help="of all finished runs (default: docs/evidence.json)")
    add("--plot", type=Path, help="draw the main table, with intervals (PNG, SVG)")
    add("--show", action="store_true", help="run nothing: record what is finished, print tables")
    add("--quick", action="store_true", help="two iterations: does everything run?")
    args = parser.parse_args()
    data = dict(map(data_of, args.data))
    if "trees" in data and not args.show:
        prepare_data.prepare(prepare_data.DATA)  # now, so that no two runs do
    extra = QUICK if args.quick else ""
    record = args.output / "quick.json" if args.quick else ROOT / "docs/evidence.json"
    record = args.record or record
    variants = {
        (table, name): [variant_of(name, fields, *item, extra) for item in TABLES[table].items()]
        for table in args.tables
        for name, fields in data.items()
        if fields.train_negatives or not any(s.with_negatives for s in TABLES[table].values())
    }
    if not variants:
        raise SystemExit(f"--tables negatives: {', '.join(data)} has no images without objects")
    # once, in however many tables it is
    everything = {v.name: v for v in itertools.chain.from_iterable(variants.values())}.values()
    records, failed = read(record), []
    if not args.show:
        recorded = {(v.name, seed) for v in everything for seed in of_variant(records, v)}
        how = args.devices, args.threads, recorded
        failed = runs.run_all(list(everything), args.seeds, args.output, *how)
    records = read(record)  # once more: others may have written meanwhile
    for v in everything:
        known, finished = of_variant(records, v), runs.results_of(v, args.seeds, args.output)
        records += [r for seed, r in finished.items() if seed not in known]
    write(record, records)
    show(records, variants, args.plot)
    if failed:
        raise SystemExit(f"{len(failed)} runs failed; see {', '.join(map(str, failed))}")


def show(
    records: list[dict], variants: dict[tuple[str, str], list[runs.Variant]], plot: Path | None
) -> None:
    """Print the tables; draw the main one to ``plot``. ``variants`` are by table and data set."""
    by_table: dict[str, dict[str, list[dict[int, dict]]]] = {}
    for (table, name), compared in variants.items():
        found = [of_variant(records, v) for v in compared]
        if sum(map(bool, found)) > 1:
            by_table.setdefault(table, {})[name] = found
            print(f"\n{table}, {name}\n")
            print("\n".join(tables.table_of(found)))
    if main := by_table.get("main"):
        print("\nmain\n")
        print("\n".join(tables.overview(main, "OHEM 128")))
        if plot:
            tables.plot(main, plot)


def data_of(text: str) -> tuple[str, Data]:
    """From NAME=FOLDER, or NAME where the folder is known."""
    name, _, folder = text.partition("=")
    if name not in DATA or not (folder or DATA[name].folder):
        raise SystemExit(f"--data {text}; allowed: {', '.join(f'{n}=FOLDER' for n in DATA)}")
    return name, dataclasses.replace(DATA[name], folder=folder or DATA[name].folder)


def variant_of(name: str, data: Data, variant: str, setup: Setup, extra: str) -> runs.Variant:
    """Its settings are the recipe and what the variant adds; a record also has the commit."""
    overrides = f"{setup.overrides} {extra}".split()
    others = {key: value for key, value in vars(setup).items() if value and key != "overrides"}
    recipe = CfgNode.load_yaml_with_base(str(CONFIGS / f"{name}.yaml"))
    made_of = json.dumps(recipe, sort_keys=True), *overrides, *map(str, others.items())
    settings = runs.fingerprint(*made_of)

    def command(seed: int, device: str, folder: Path) -> list[str]:
        given = {"data": name, "variant": variant, "overrides": overrides, "settings": settings}
        given |= {"seed": seed, "device": device, "folder": str(folder)}
        given |= {"files": dataclasses.asdict(data), "others": others}
        return [sys.executable, "-W", "ignore", run.__file__, json.dumps(given)]

    return runs.Variant(f"{name}/{variant.replace(' ', '-')}-{settings[:8]}", settings, command)


def read(path: Path) -> list[dict]:
    return json.loads(path.read_text()) if path.exists() else []


def write(path: Path, records: Iterable[dict]) -> None:
    """One line a record, in an order of their own, so that a change shows what is new."""
    ordered = sorted(records, key=lambda r: (r["data"], r["variant"], r["settings"], r["seed"]))
    write_atomically(path, "[\n" + ",\n".join(map(json.dumps, ordered)) + "\n]\n")


def of_variant(records: Iterable[dict], variant: runs.Variant) -> dict[int, dict]:
    """The records of a variant by seed."""
    return {r["seed"]: r for r in records if r["settings"] == variant.settings}


if __name__ == "__main__":
    main()
