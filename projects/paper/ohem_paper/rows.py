"""Rows of the paper's Table 1, each a configuration: which there are, and their runs."""

import json
import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer

from ohem_d2.tools import runs
from ohem_d2.tools.errors import InputError, input_errors

from .report import METRICS, number_of, write_report

PROJECT = Path(__file__).resolve().parents[1]


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


def on_data(split: str, data: Sequence[str], proposals: Sequence[str]) -> list[str]:
    """Overrides: other data sets, each with its file of proposals, for "TRAIN" or "TEST"."""
    values = {split: data, f"PROPOSAL_FILES_{split}": proposals}
    return [w for key, value in values.items() for w in (f"DATASETS.{key}", str(tuple(value)))]


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
    Do what is missing in the output folder, see :func:`ohem_d2.tools.runs.run_all`, without devices
    nothing, then write and print the report. The flags are of ``train.py``. Raises InputError
    afterwards, which says where to look, if runs failed.
    """
    variants = [variant_of(row, overrides, flags) for row in rows]
    failed = runs.run_all(variants, seeds, output, devices, threads) if devices else []
    results = {variant.name: runs.results_of(variant, seeds, output) for variant in variants}
    print(write_report(results, output))
    if failed:
        raise InputError(f"{len(failed)} runs failed; see {', '.join(map(str, failed))}")


def result_of(trainer: DefaultTrainer) -> dict[str, Any]:
    """What a run leaves for the table, whose trainer has trained and tested."""
    cfg = trainer.cfg
    boxes = trainer.last_results.get("bbox", {})  # nothing where the test's objects are not public
    records = runs.read_metrics(cfg.OUTPUT_DIR)
    sweeps = logged(records, "bootstrap/sweep_seconds")
    return {
        "metrics": {key: boxes[key] for key in METRICS if key in boxes},
        "seconds": runs.seconds_per_iteration(records),
        # Bootstrapping's, spread over the iterations; their own timer rests meanwhile.
        "sweep_seconds": sum(sweeps.values()) / cfg.SOLVER.MAX_ITER,
        "peak_bytes": peak_memory(cfg.MODEL.DEVICE),
        "training_loss": logged(records, "training_loss/loss"),
    }


def peak_memory(device: str) -> int:
    """The most that this process had, in bytes: of the GPU where it runs on one."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def logged(records: Sequence[dict], name: str) -> dict[int, float]:
    """By iteration; the last value where a resumed run came by an iteration again."""
    return {record["iteration"]: record[name] for record in records if name in record}
