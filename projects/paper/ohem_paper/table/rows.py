"""Which rows there are, and their runs."""

import sys
from collections.abc import Sequence
from pathlib import Path

from ohem_d2.tools.runs import Variant, fingerprint, results_of, run_all

from .report import number_of, write_report

PROJECT = Path(__file__).resolve().parents[2]


def find_rows(folder: Path, wanted: Sequence[str] | None = None) -> list[Path]:
    """
    Args:
        wanted: numbers ("13") or names ("bootstrapping_vgg16_n2"); all numbered files if None.

    Raises:
        ValueError: there is no such row, or none at all.
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


def variant_of(row: Path, overrides: Sequence[str]) -> Variant:
    """
    Args:
        row: a configuration.
        overrides: KEY, VALUE, KEY, VALUE...
    """

    def command(seed: int, device: str, folder: Path) -> list[str]:
        train = [sys.executable, "-W", "ignore", str(PROJECT / "train.py"), "--result", "--resume"]
        own = ["OUTPUT_DIR", str(folder), "SEED", str(seed), "MODEL.DEVICE", device]
        return [*train, "--config-file", str(row), *own, *overrides]

    return Variant(row.stem, settings_of(row, overrides), command)


def settings_of(row: Path, overrides: Sequence[str]) -> str:
    """Fingerprint of the files that the row's configuration is made of, and the overrides."""
    files = [row]
    while base := [x for x in files[-1].read_text().splitlines() if x.startswith("_BASE_")]:
        files.append(files[-1].parent / base[0].partition(":")[2].strip().strip('"'))
    return fingerprint(*files, *overrides)


def run_table(
    rows: Sequence[Path],
    seeds: Sequence[int],
    output: Path,
    devices: Sequence[str],
    overrides: Sequence[str] = (),
    title: str = "Table 1",
    threads: int | None = None,
) -> None:
    """
    Do what is missing in the output folder, then write and print the report.

    Args:
        rows: configurations, see :func:`find_rows`.
        devices, threads: see :func:`ohem_d2.tools.runs.run_all`; without devices nothing is run.
        overrides: KEY, VALUE, KEY, VALUE...

    Raises:
        RuntimeError: after the report, if runs failed; says where to look.
    """
    variants = [variant_of(row, overrides) for row in rows]
    failed = run_all(variants, seeds, output, devices, threads) if devices else []
    results = {variant.name: results_of(variant, seeds, output) for variant in variants}
    print(write_report(results, output, title))
    if failed:
        raise RuntimeError(f"{len(failed)} runs failed; see {', '.join(map(str, failed))}")
