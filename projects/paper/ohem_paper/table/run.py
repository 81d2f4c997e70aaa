"""Run rows and report them."""

from collections.abc import Sequence
from pathlib import Path

from ohem_d2.tools.runs import results_of, run_all

from .report import write_report
from .rows import variant_of


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
        rows: configurations, see :func:`.rows.find_rows`.
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
