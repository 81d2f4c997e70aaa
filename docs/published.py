"""
The tables of docs/evidence.json that pages publish, each between two comments. ::

    PYTHONPATH=. python docs/published.py                 write all of them anew, and the picture
    PYTHONPATH=. python docs/published.py RECORDS.json    first add these records to evidence.json

The first comment says what the table has: the data, then iterations or missing labels where they
are not 400 and 0, then the variants of its rows::

    <!-- evidence: boards; 800 iterations; random 128 | OHEM 128 -->
    <!-- evidence: boards; missing 0.2; random 128 | OHEM 128 -->
    <!-- overview: boards, plates, trees; random 128 | random 512 | OHEM 128 -->

Below it come the table of ``python -m ohem_d2 compare`` and its verdict on the last row, or on that
of OHEM; or AP and AP75 on several data sets.
"""

import json
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from ohem_d2.tools.compare import Results, difference, table
from ohem_d2.tools.comparison.paired import paired, verdict
from ohem_d2.tools.runs import markdown_table, mean_and_spread

ROOT = Path(__file__).resolve().parents[1]
RECORDS, PICTURE = ROOT / "docs/evidence.json", ROOT / "docs/evidence.png"
TESTED = "OHEM 128"
MAIN, DRAWN = ("boards", "plates", "trees"), ("random 128", "random 512", TESTED, "quota 128")
MARKED = re.compile(r"(<!-- (evidence|overview): (.*?) -->\n).*?(<!-- end -->)", re.DOTALL)


def pages() -> list[Path]:
    """All that may publish."""
    return sorted([ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("projects/*/README.md")])


def fill(text: str, records: Sequence[dict]) -> str:
    """A page with its tables as the records have them."""
    return MARKED.sub(lambda m: m[1] + "\n".join(lines(m[2], m[3], records)) + "\n" + m[4], text)


def lines(kind: str, spec: str, records: Sequence[dict]) -> list[str]:
    """What stands between two comments."""
    data, *options, rows = (part.strip() for part in spec.split(";"))
    iterations, missing = 400, None
    for option in options:
        if option.startswith("missing "):
            missing = float(option.removeprefix("missing "))
        else:
            iterations = int(option.removesuffix(" iterations"))
    variants = [row.strip() for row in rows.split("|")]
    by_data = {
        name: found
        for name in map(str.strip, data.split(","))
        if (found := select(records, name, variants, iterations, missing))
    }
    out = [""]
    if kind == "overview":
        return out + overview(by_data, TESTED) + [""] if by_data else out
    for found in by_data.values():
        out += [*table(found), "", *verdicts(found)]
    return out


def select(
    records: Sequence[dict],
    data: str,
    variants: Sequence[str],
    iterations: int = 400,
    missing: float | None = None,
) -> Results:
    """The records by variant and seed; variants without any are left out."""
    keys, found = ("data", "variant", "iterations", "missing"), {}
    for variant in variants:
        wanted = (data, variant, iterations, missing)
        found[variant] = {r["seed"]: r for r in records if tuple(map(r.get, keys)) == wanted}
    return {variant: by_seed for variant, by_seed in found.items() if by_seed}


def verdicts(results: Results) -> Iterator[str]:
    """The lines of one sentence, on OHEM where it is compared with the first row."""
    first, *others = results
    if TESTED in others:
        aps = ({s: r["AP"] for s, r in results[name].items()} for name in (TESTED, first))
        yield from (*textwrap.wrap(verdict(TESTED, first, *aps), 100), "")


def overview(by_data: Mapping[str, Results], tested: str) -> list[str]:
    """AP and AP75 of all variants on all data sets, and ``tested`` minus the first."""
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


def main() -> None:
    records = json.loads(RECORDS.read_text())
    for file in sys.argv[1:]:
        new = json.loads(Path(file).read_text())
        records += [record for record in new if record not in records]
    ordered = sorted(records, key=lambda r: (r["data"], r["variant"], r["overrides"], r["seed"]))
    RECORDS.write_text("[\n" + ",\n".join(map(json.dumps, ordered)) + "\n]\n")
    for page in pages():
        page.write_text(fill(page.read_text(), records))
    by_data = {data: select(records, data, DRAWN) for data in MAIN}
    plot({data: found for data, found in by_data.items() if found}, PICTURE)


if __name__ == "__main__":
    main()
