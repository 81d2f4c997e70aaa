"""Rows of the paper's Table 1, each a configuration: which there are, and their runs."""

import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import DefaultTrainer

from ohem_d2.tools import runs

from .report import METRICS, number_of, write_report

PROJECT = Path(__file__).resolve().parents[1]


def find_rows(folder: Path, wanted: Sequence[str] | None = None) -> list[Path]:
    """
    The files of rows by their numbers ("13") or names ("bootstrapping_vgg16_n2"); all numbered ones
    if None. Raises ValueError if there is no such row, or none at all.
    """
    files = {file.stem: file for file in sorted(folder.glob("*.yaml"))}
    if wanted is None:
        numbered = [file for stem, file in files.items() if number_of(stem)]
        if not numbered:
            raise ValueError(f"--configs {folder}: there is no NUMBER_NAME.yaml in this folder")
        return numbered
    rows = []
    for name in wanted:
        found = [f for s, f in files.items() if s == name or str(number_of(s)) == name]
        if not found:
            raise ValueError(f"--rows {name}: no such row in {folder}; there are {list(files)}")
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
    """Fingerprint of the files that the row's configuration is made of, and the overrides."""
    files = [row]
    while base := [x for x in files[-1].read_text().splitlines() if x.startswith("_BASE_")]:
        files.append(files[-1].parent / base[0].partition(":")[2].strip().strip('"'))
    return runs.fingerprint(*files, *overrides)


def run_table(
    rows: Sequence[Path],
    seeds: Sequence[int],
    output: Path,
    devices: Sequence[str],
    overrides: Sequence[str] = (),
    title: str = "Table 1",
    threads: int | None = None,
    flags: Sequence[str] = (),
) -> None:
    """
    Do what is missing in the output folder, see :func:`ohem_d2.tools.runs.run_all`, without devices
    nothing, then write and print the report. The flags are of ``train.py``. Raises RuntimeError
    afterwards, which says where to look, if runs failed.
    """
    variants = [variant_of(row, overrides, flags) for row in rows]
    failed = runs.run_all(variants, seeds, output, devices, threads) if devices else []
    results = {variant.name: runs.results_of(variant, seeds, output) for variant in variants}
    print(write_report(results, output, title))
    if failed:
        raise RuntimeError(f"{len(failed)} runs failed; see {', '.join(map(str, failed))}")


def result_of(trainer: DefaultTrainer) -> dict[str, Any]:
    """
    What a run leaves for the table. The trainer has trained and tested; a test is a part even of a
    training that had been finished by a run that was killed then.
    """
    cfg = trainer.cfg
    boxes = trainer.last_results.get("bbox", {})  # nothing where the test's objects are not public
    records = runs.read_metrics(cfg.OUTPUT_DIR)
    sweeps = logged(records, "bootstrap/sweep_seconds")
    return {
        "metrics": {key: boxes[key] for key in METRICS if key in boxes},
        "seconds": runs.seconds_per_iteration(records),
        # Of bootstrapping, spread over the iterations; their own timer rests meanwhile.
        "sweep_seconds": sum(sweeps.values()) / cfg.SOLVER.MAX_ITER,
        "peak_bytes": peak_memory(cfg.MODEL.DEVICE),
        "training_loss": logged(records, "training_loss/loss"),
    }


def peak_memory(device: str) -> int:
    """Of this process, in bytes: the GPU's where it runs on one, else the computer's."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def logged(records: Sequence[dict], name: str) -> dict[int, float]:
    """By iteration; of an iteration that a resumed run came by again, the last value."""
    return {record["iteration"]: record[name] for record in records if name in record}
