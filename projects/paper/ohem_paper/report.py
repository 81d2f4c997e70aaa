"""Table 1, as Markdown, CSV and pictures."""

import csv
import statistics
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ohem_d2.tools.runs import markdown_table, mean_and_spread

Results = dict[str, dict[int, dict]]  # by the name of a row, by seed, as result.json has it

# mAP on VOC07 test by row, from Table 1 of the paper; and, from Table 2, seconds an iteration and
# GB on a Titan X by row. From memory and not confirmed, but for rows 12 and 13 of Table 1, see
# README.md.
PAPER_MAP = {
    **{1: 59.6, 2: 67.2, 3: 57.2, 4: 67.5, 5: 66.3, 6: 66.3, 7: 57.7},
    **{8: 60.4, 9: 67.5, 10: 68.7, 11: 69.7, 12: 62.0, 13: 69.9},
}
PAPER_COST = {1: (0.13, 2.6), 12: (0.22, 3.6), 2: (0.57, 6.4), 13: (1.00, 8.7)}

METRICS = ("AP", "AP50", "AP75")
COSTS = ("seconds", "sweep_seconds", "peak_bytes")


def number_of(stem: str) -> int | None:
    """Of a row by the name of its file."""
    head = stem.partition("_")[0]
    return int(head) if head.isdecimal() else None


def write_report(results: Results, output: Path, title: str) -> str:
    """
    ``table.md``, ``table.csv``, and with results ``table.png`` and perhaps ``training_loss.png``.
    Returns the table.
    """
    output.mkdir(parents=True, exist_ok=True)
    text = "\n".join(table(results))
    (output / "table.md").write_text(text + "\n")
    with open(output / "table.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["row", "experiment", "seed", *METRICS, *COSTS])
        writer.writeheader()
        for row, runs in results.items():
            for seed, run in runs.items():
                names = {"row": number_of(row), "experiment": row, "seed": seed}
                costs = {key: run[key] for key in COSTS}
                writer.writerow({**names, **run["metrics"], **costs})
    if finished := {row: runs for row, runs in results.items() if runs}:
        draw_table(finished, title, output / "table.png")
        draw_training_loss(finished, output / "training_loss.png")
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
        rows.append(
            [
                str(number or ""),
                row.partition("_")[2] if number else row,
                str(len(runs)),
                mean_and_spread(ap["AP50"], 1),
                mean_and_spread(ap["AP"], 1),
                str(PAPER_MAP.get(number, "")),
                seconds,
                mean_and_spread([run["peak_bytes"] / 2**30 for run in runs], 2),
                "{:.2f}, {}".format(*PAPER_COST[number]) if number in PAPER_COST else "",
            ]
        )
    header = ["#", "experiment", "seeds", "AP50", "AP", "paper: mAP", "s / iteration", "peak GB"]
    note = "The paper's figures are not confirmed but for rows 12 and 13, see README.md."
    return [*markdown_table([*header, "paper: s, GB"], rows), "", note]


def draw_table(finished: Results, title: str, target: Path) -> None:
    """Bars with the mean AP50, and dots with those of the seeds."""
    figure = Figure(figsize=(8, 0.4 * len(finished) + 1.5), layout="tight")
    axes = figure.subplots()
    for place, runs in enumerate(finished.values()):
        values = [run["metrics"].get("AP50", 0.0) for run in runs.values()]
        axes.barh(place, statistics.mean(values), color="#9db8d2")
        axes.plot(values, [place] * len(values), "k.", markersize=5)
    axes.set_yticks(range(len(finished)), list(finished))
    axes.invert_yaxis()
    axes.set(xlabel="AP50 (bars: mean; dots: seeds)", title=title)
    figure.savefig(target, dpi=120)


def draw_training_loss(finished: Results, target: Path) -> None:
    """Where it was taken; nothing is written if nowhere."""
    figure = Figure(figsize=(6, 4), layout="tight")
    axes = figure.subplots()
    for row, by_seed in finished.items():
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
