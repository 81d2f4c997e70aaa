"""What is shown of records: tables, and a plot. Records of a variant are by seed."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from scipy import stats

from ohem_d2.tools import runs

METRICS = ("AP", "AP50", "AP75")
OfVariant = Mapping[int, dict]


def table_of(compared: Sequence[OfVariant]) -> list[str]:
    """Markdown: a row for each variant; the first is what the others are compared with."""
    there = set().union(*(r for of_one in compared for r in of_one.values()))
    keys = [key for key in (*METRICS, "false_alarms") if key in there]
    rows = []
    for records in filter(None, compared):
        values = [[r[key] for r in records.values() if key in r] for key in keys]
        cells = [runs.mean_and_spread(of_key, 2) for of_key in values]
        beyond = difference(records, compared[0])
        rows.append([name_of(records), str(len(records)), *cells, beyond])
    headers = [key.replace("_", " ") for key in keys]
    header = ["variant", "seeds", *headers, "AP beyond the first row, 95 %"]
    return runs.markdown_table(header, rows)


def overview(by_data: Mapping[str, Sequence[OfVariant]], tested: str) -> list[str]:
    """
    AP of variants on all data sets, each with the variants in the same order, and by how much the
    one that is called ``tested`` is beyond the first.
    """
    rows = []
    for of_one in zip(*by_data.values()):
        if any(of_one):
            name = name_of(next(filter(None, of_one)))
            values = ([r["AP"] for r in records.values()] for records in of_one)
            row = [runs.mean_and_spread(of_data, 1) for of_data in values]
            rows.append([f"**{name}**" if name == tested else name, *row])
    beyond = []
    for compared in by_data.values():
        of_tested = [records for records in compared if records and name_of(records) == tested]
        beyond.append(difference(of_tested[0], compared[0], 1) if of_tested else "")
    first = name_of(next(filter(None, (compared[0] for compared in by_data.values()))))
    rows.append([f"{tested} beyond {first}, 95 %", *beyond])
    seeds = [f"{name}, {len(compared[0])} seeds" for name, compared in by_data.items()]
    return runs.markdown_table(["AP", *seeds], rows)


def plot(by_data: Mapping[str, Sequence[OfVariant]], path: Path) -> None:
    """By how much AP of each variant is beyond that of the first, with the interval of 95 %."""
    figure = Figure(figsize=(8, 1 + 0.9 * len(by_data)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color="grey", linewidth=2)
    num = max(map(len, by_data.values())) - 1
    labelled: set[str] = set()
    for row, compared in enumerate(by_data.values()):
        for index, records in enumerate(compared[1:]):
            if (found := interval(records, compared[0])) is None:
                continue
            name = name_of(records)
            mean, low, high = found
            place = row + 0.2 * (index - (num - 1) / 2)
            how = {"fmt": "o", "capsize": 4, "color": f"C{index}"}
            how["label"] = None if name in labelled else name
            axes.errorbar(mean, place, xerr=[[mean - low], [high - mean]], **how)
            labelled.add(name)
    seeds = [f"{name}\n{len(compared[0])} seeds" for name, compared in by_data.items()]
    axes.set_yticks(range(len(by_data)), seeds)
    axes.set_ylim(len(by_data) - 0.5, -0.5)
    first = name_of(next(filter(None, (compared[0] for compared in by_data.values()))))
    axes.set_xlabel(f"AP beyond {first}: mean over seeds, interval of 95 %")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    figure.savefig(path, dpi=110)


def name_of(records: OfVariant) -> str:
    return next(iter(records.values()))["variant"]


def interval(records: OfVariant, baseline: OfVariant) -> tuple[float, float, float] | None:
    """
    By how much AP is beyond that of the baseline, over the seeds that both have: the mean, and the
    interval of 95 % that Student's t gives for paired samples. None for fewer than two seeds.
    """
    pairs = [r["AP"] - baseline[seed]["AP"] for seed, r in records.items() if seed in baseline]
    if records is baseline or len(pairs) < 2:
        return None
    low, high = stats.ttest_1samp(pairs, 0).confidence_interval(0.95)
    return statistics.mean(pairs), low.item(), high.item()


def difference(records: OfVariant, baseline: OfVariant, digits: int = 2) -> str:
    """:func:`interval` in words; empty if there is none."""
    if (found := interval(records, baseline)) is None:
        return ""
    mean, low, high = (f"{value:+.{digits}f}" for value in found)
    return f"{mean} ({low} to {high})"
