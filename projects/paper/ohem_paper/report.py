"""Table 1 in Markdown, and a picture of the training loss."""

import statistics
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ohem_d2.tools.runs import markdown_table, mean_and_spread

Results = dict[str, dict[int, dict]]  # by the name of a row, by seed, as result.json has it

# mAP on VOC07 test by row, from Table 1 of the paper; only rows 12 and 13 are confirmed, see README
PAPER_MAP = {
    **{1: 59.6, 2: 67.2, 3: 57.2, 4: 67.5, 5: 66.3, 6: 66.3, 7: 57.7},
    **{8: 60.4, 9: 67.5, 10: 68.7, 11: 69.7, 12: 62.0, 13: 69.9},
}

METRICS = ("AP", "AP50", "AP75")


def number_of(stem: str) -> int | None:
    """The number of a row by the name of its file."""
    head = stem.partition("_")[0]
    return int(head) if head.isdecimal() else None


def write_report(results: Results, output: Path) -> str:
    """``table.md``, which is returned, and ``training_loss.png`` if some runs took it."""
    output.mkdir(parents=True, exist_ok=True)
    text = "\n".join(table(results))
    (output / "table.md").write_text(text + "\n")
    draw_training_loss(results, output / "training_loss.png")
    return text


def table(results: Results) -> list[str]:
    """Markdown: a row for each configuration, mean ± standard deviation over the seeds."""
    rows = []
    for row, by_seed in results.items():
        number, runs = number_of(row), list(by_seed.values())
        seconds = mean_and_spread([run["seconds"] for run in runs], 2)
        if any(sweeps := [run["sweep_seconds"] for run in runs]):
            seconds += f", and {np.mean(sweeps):.2f} in sweeps"
        ap = {name: [r["metrics"][name] for r in runs if name in r["metrics"]] for name in METRICS}
        name = row.partition("_")[2] if number else row
        figures = *(mean_and_spread(ap[n], 1) for n in ("AP50", "AP")), PAPER_MAP.get(number, "")
        peak = mean_and_spread([run["peak_bytes"] / 2**30 for run in runs], 2)
        cells = number or "", name, len(runs), *figures, seconds, peak
        rows.append(list(map(str, cells)))
    header = ["#", "experiment", "seeds", "AP50", "AP", "paper: mAP", "s / iteration", "peak GB"]
    note = "The paper's figures are not confirmed but for rows 12 and 13, see README.md."
    return [*markdown_table(header, rows), "", note]


def draw_training_loss(results: Results, target: Path) -> None:
    """Nothing is written if no run took it."""
    figure = Figure(figsize=(6, 4), layout="tight")
    axes = figure.subplots()
    for row, by_seed in results.items():
        if runs := [run["training_loss"] for run in by_seed.values() if run["training_loss"]]:
            # those that every seed has, as numbers
            iterations = sorted(set.intersection(*(set(map(int, run)) for run in runs)))
            means = [statistics.mean(run[str(i)] for run in runs) for i in iterations]
            axes.plot(iterations, means, "o-", label=row)
    if axes.lines:
        label = "mean loss over all RoIs of the training set"
        axes.set(xlabel="iteration", ylabel=label, yscale="log")
        axes.legend()
        figure.savefig(target, dpi=120)
