"""Which rows there are, and how they are run."""

import sys
from collections.abc import Sequence
from pathlib import Path

from ohem_d2.tools.runs import Variant, fingerprint

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


def number_of(stem: str) -> int | None:
    """Of a row by the name of its file."""
    head = stem.partition("_")[0]
    return int(head) if head.isdigit() else None


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
