"""Records of several data sets in a table and in a plot. Records of a variant are by seed."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from ohem_d2.tools.compare import Results, difference
from ohem_d2.tools.comparison.paired import paired
from ohem_d2.tools.runs import markdown_table, mean_and_spread


def overview(by_data: Mapping[str, Results], tested: str) -> list[str]:
    """AP and AP75 of all variants on all data sets, and the difference of one from the first."""
    header, columns = ["AP / AP75"], []
    names = list(dict.fromkeys(name for results in by_data.values() for name in results))
    for data, results in by_data.items():
        first = next(iter(results.values()))
        header.append(f"{data}, {len(first)} seeds")
        column = []
        for name in names:
            of_all = results.get(name, {}).values()
            cells = (mean_and_spread([r[key] for r in of_all], 1) for key in ("AP", "AP75"))
            fewer = f" ({len(of_all)} seeds)" * (0 < len(of_all) < len(first))
            column.append(" / ".join(filter(None, cells)) + fewer)
        column += [difference(results.get(tested, {}), first, key) for key in ("AP", "AP75")]
        columns.append(column)
    last = [f"{key} difference ({tested} minus {names[0]}), 95 %" for key in ("AP", "AP75")]
    return markdown_table(header, zip([*names, *last], *columns))


def plot(by_data: Mapping[str, Results], path: Path) -> None:
    """AP differences of each variant from the first, with intervals of 95 %."""
    figure = Figure(figsize=(8, 1 + 0.9 * len(by_data)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color="grey", linewidth=2)
    names = list(dict.fromkeys(name for results in by_data.values() for name in results))[1:]
    for index, name in enumerate(names):
        label = name
        for row, results in enumerate(by_data.values()):
            aps = [
                {s: r["AP"] for s, r in results.get(n, {}).items()} for n in (name, [*results][0])
            ]
            if (found := paired(*aps)) is None or found.n < 2:
                continue
            place = row + 0.2 * (index - (len(names) - 1) / 2)
            error = [[found.mean - found.low], [found.high - found.mean]]
            how = {"fmt": "o", "capsize": 4, "color": f"C{index}", "label": label}
            axes.errorbar(found.mean, place, xerr=error, **how)
            label = None
    numbers = {data: sorted({*map(len, found.values())}) for data, found in by_data.items()}
    seeds = [f"{data}\n{' to '.join(map(str, n))} seeds" for data, n in numbers.items()]
    axes.set_yticks(range(len(by_data)), seeds)
    axes.set_ylim(len(by_data) - 0.5, -0.5)
    first = next(iter(next(iter(by_data.values()))))
    axes.set_xlabel(f"AP difference from {first}: mean over seeds, interval of 95 %")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    figure.savefig(path, dpi=110)
