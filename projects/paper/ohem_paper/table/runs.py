"""
Rows of Table 1, several seeds each, and the table with the paper's figures beside ours. ::

    python projects/paper/run_table.py --devices cuda:0 cuda:1            # all rows on VOC07
    python projects/paper/run_table.py --rows 2 13 --seeds 1 2 3 \\
        --train-data coco:train.json:images --train-proposals train.pkl \\
        --test-data coco:test.json:images --test-proposals test.pkl \\
        -- SOLVER.MAX_ITER 20000 SOLVER.STEPS "(15000,)"
    python projects/paper/run_table.py --only-report                      # of what is finished

Rows are the numbered files in ``--configs``, or those of its files that ``--rows`` names. Every run
is a process of its own, one a device at a time. A run that was killed goes on from its last
checkpoint when the command is given again, and finished ones are kept. In ``--output`` are then
``table.md``, ``table.csv``, ``table.png`` and, for runs with TRAINING_LOSS.PERIOD,
``training_loss.png``.
"""

import argparse
import csv
import hashlib
import json
import os
import queue
import resource
import statistics
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent

# mAP on VOC07 test by row, from Table 1 of the paper; and, from Table 2, seconds an iteration and
# GB on a Titan X by row. From memory and not confirmed, but for rows 12 and 13 of Table 1, see
# README.md.
PAPER_MAP = {
    **{1: 59.6, 2: 67.2, 3: 57.2, 4: 67.5, 5: 66.3, 6: 66.3, 7: 57.7},
    **{8: 60.4, 9: 67.5, 10: 68.7, 11: 69.7, 12: 62.0, 13: 69.9},
}
PAPER_COST = {1: (0.13, 2.6), 12: (0.22, 3.6), 2: (0.57, 6.4), 13: (1.00, 8.7)}

# A device on which so many runs fail in a row gets no more: it may be broken, and the others not.
MAX_FAILURES = 2


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    rows = find_rows(args.configs, args.rows)
    if not args.only_report:
        failed = run_all(rows, args)
        if failed:
            report(rows, args)
            raise SystemExit(f"{len(failed)} runs failed; see {', '.join(map(str, failed))}")
    report(rows, args)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run rows of Table 1; see the file's head.")
    parser.add_argument("--configs", type=Path, default=HERE / "configs/voc07", help="folder")
    parser.add_argument("--rows", nargs="+", help="numbers, or names of files; all numbered ones")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--output", type=Path, default=Path("output/table1"))
    parser.add_argument("--devices", nargs="+", default=["cuda:0"], help="cuda:0 cuda:1, cpu cpu")
    parser.add_argument("--only-report", action="store_true", help="train nothing")
    parser.add_argument("--title", default="Table 1", help="of the report")
    for split in ("train", "test"):
        parser.add_argument(f"--{split}-data", nargs="+", help="instead of the configurations'")
        parser.add_argument(f"--{split}-proposals", nargs="+", help="a file for each of them")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE")
    args = parser.parse_args(argv)
    args.seeds = list(dict.fromkeys(args.seeds))
    if len(args.test_data or ()) > 1:
        parser.error("--test-data: one data set, so that there is one figure for a run")
    for split in ("train", "test"):
        data, files = getattr(args, f"{split}_data"), getattr(args, f"{split}_proposals")
        if len(data or ()) != len(files or ()):
            parser.error(f"--{split}-data and --{split}-proposals: one file for each data set")
        for key, value in ((split.upper(), data), (f"PROPOSAL_FILES_{split.upper()}", files)):
            if value:
                args.overrides += [f"DATASETS.{key}", str(tuple(value))]
    return args


def find_rows(folder: Path, wanted: Sequence[str] | None) -> list[Path]:
    """
    Args:
        wanted: numbers ("13") or names ("bootstrapping_vgg16_n2"); all numbered files if None.
    """
    files = {file.stem: file for file in sorted(folder.glob("*.yaml"))}
    if wanted is None:
        numbered = [file for stem, file in files.items() if number_of(stem)]
        if not numbered:
            raise SystemExit(f"--configs {folder}: there is no NUMBER_NAME.yaml in this folder")
        return numbered
    rows = []
    for name in wanted:
        found = [f for s, f in files.items() if s == name or str(number_of(s)) == name]
        if not found:
            raise SystemExit(f"--rows {name}: no such row in {folder}; there are {list(files)}")
        rows += found
    return list(dict.fromkeys(rows))


def number_of(stem: str) -> int | None:
    head = stem.partition("_")[0]
    return int(head) if head.isdigit() else None


# ---- runs --------------------------------------------------------------------------------------


def folder_of(row: Path, seed: int, args: argparse.Namespace) -> Path:
    return args.output / row.stem / f"seed{seed}"


def run_all(rows: Sequence[Path], args: argparse.Namespace) -> list[Path]:
    """Every row of a seed before the next seed. Returns the logs of runs that failed."""
    tasks: queue.Queue[tuple[Path, int]] = queue.Queue()
    for seed in args.seeds:
        for row in rows:
            tasks.put((row, seed))
    settings_of = {row: fingerprint(row, args.overrides) for row in rows}
    failed: list[Path] = []
    processes: list[subprocess.Popen] = []

    def work(device: str) -> None:
        failures = 0
        while failures < MAX_FAILURES:
            try:
                row, seed = tasks.get_nowait()
            except queue.Empty:
                return
            folder = folder_of(row, seed, args)
            settings = settings_of[row]
            kept = folder / "result.json"
            if kept.exists() and json.loads(kept.read_text())["settings"] == settings:
                continue
            if kept.exists() or settings_of_checkpoints(folder) not in (None, settings):
                print(
                    f"{folder} is of other settings; choose another --output or remove it",
                    file=sys.stderr,
                )
                failed.append(folder)
                continue
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(folder / "settings", settings)
            print(f"{row.stem}, seed {seed}, {device}: running", flush=True)
            command = [sys.executable, "-W", "ignore", __file__, "--run-one", str(row), settings]
            command += ["OUTPUT_DIR", str(folder), "SEED", str(seed), "MODEL.DEVICE", device]
            with open(folder / "output.txt", "a") as out:
                process = subprocess.Popen(
                    [*command, *args.overrides],
                    stdin=subprocess.PIPE,  # see end_with_parent
                    stdout=out,
                    stderr=subprocess.STDOUT,
                )
                processes.append(process)
                failures = failures + 1 if process.wait() != 0 else 0
                if failures > 0:
                    failed.append(folder / "output.txt")

    workers = [threading.Thread(target=work, args=(device,)) for device in args.devices]
    for worker in workers:
        worker.start()
    try:
        for worker in workers:
            worker.join()
    except KeyboardInterrupt:
        with tasks.mutex:
            tasks.queue.clear()
        for process in processes:
            process.terminate()
        raise
    return failed


def settings_of_checkpoints(folder: Path) -> str | None:
    file = folder / "settings"
    return file.read_text() if file.exists() else None


def fingerprint(row: Path, overrides: Sequence[str]) -> str:
    """Of the files that the row's configuration is made of, and the overrides."""
    texts, file = [], row
    while file is not None:
        text = file.read_text()
        texts.append(text)
        base = [line for line in text.splitlines() if line.startswith("_BASE_")]
        file = file.parent / base[0].partition(":")[2].strip().strip('"') if base else None
    return hashlib.sha256("\n".join([*texts, *map(str, overrides)]).encode()).hexdigest()[:16]


def end_with_parent() -> None:
    """
    The other end of the standard input closes when the command that started this process ends, by
    a kill too. Left alone, a run would go on beside the one that the next command starts.
    """
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


def run_one(config_file: str, settings: str, overrides: Sequence[str]) -> None:
    """Train and test one row with one seed in this process; see :func:`run_all`."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    from detectron2.engine import default_argument_parser, default_setup
    from recipe import build_trainer, check_files, load_config

    cfg = load_config(config_file, overrides)
    cfg.freeze()
    default_setup(cfg, default_argument_parser().parse_args([]))
    check_files(cfg)
    trainer = build_trainer(cfg)
    trainer.resume_or_load(resume=True)
    trainer.train()
    folder = Path(cfg.OUTPUT_DIR)
    # Tested after the training, even if that had been finished by a run that was killed then
    boxes = trainer.last_results.get("bbox", {})  # nothing where the test's objects are not public
    records = read_metrics(folder)
    result = {
        "settings": settings,
        "metrics": {key: boxes[key] for key in ("AP", "AP50", "AP75") if key in boxes},
        "seconds": statistics.median([r["time"] for r in records if "time" in r] or [float("nan")]),
        # Of bootstrapping, spread over the iterations; their own timer rests meanwhile.
        "sweep_seconds": sum(logged(records, "bootstrap/sweep_seconds").values())
        / cfg.SOLVER.MAX_ITER,
        "peak_bytes": peak_memory(cfg.MODEL.DEVICE),
        "training_loss": logged(records, "training_loss/loss"),
    }
    write_whole(folder / "result.json", json.dumps(result))


def peak_memory(device: str) -> int:
    """Of this process, in bytes: the GPU's where it runs on one, else the computer's."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def write_whole(file: Path, text: str) -> None:
    """A kill leaves the file as it was, or whole."""
    part = file.with_name(file.name + ".part")
    part.write_text(text)
    os.replace(part, file)


def read_metrics(folder: Path) -> list[dict]:
    """Of ``metrics.json``, without a line that a kill has cut short."""
    file, records = folder / "metrics.json", []
    for line in file.read_text().splitlines() if file.exists() else ():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records


def logged(records: Sequence[dict], name: str) -> dict[int, float]:
    """By iteration; of an iteration that a resumed run came by again, the last value."""
    return {record["iteration"]: record[name] for record in records if name in record}


# ---- report ------------------------------------------------------------------------------------


def report(rows: Sequence[Path], args: argparse.Namespace) -> None:
    results = {row: results_of(row, args) for row in rows}
    args.output.mkdir(parents=True, exist_ok=True)
    lines = table(results)
    (args.output / "table.md").write_text("\n".join(lines) + "\n")
    with open(args.output / "table.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(CSV_FIELDS))
        writer.writeheader()
        for row, runs in results.items():
            writer.writerows(csv_rows(row, runs))
    draw(results, args)
    print("\n".join(lines))


def results_of(row: Path, args: argparse.Namespace) -> dict[int, dict]:
    """By seed, of the runs that are finished."""
    results = {}
    for seed in args.seeds:
        file = folder_of(row, seed, args) / "result.json"
        if file.exists():
            results[seed] = json.loads(file.read_text())
    if len({run["settings"] for run in results.values()}) > 1:
        print(f"{row.stem}: the runs of its seeds had different settings", file=sys.stderr)
    return results


def mean_and_spread(values: Sequence[float], digits: int) -> str:
    if not values:
        return ""
    mean = f"{np.mean(values):.{digits}f}"
    return f"{mean} ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else mean


def table(results: dict[Path, dict[int, dict]]) -> list[str]:
    """Markdown: a row for each configuration, mean ± standard deviation over the seeds."""
    header = ["#", "experiment", "seeds", "AP50", "AP", "paper: mAP", "s / iteration", "peak GB"]
    header += ["paper: s, GB"]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for row, runs in results.items():
        number = number_of(row.stem)
        metrics = [r["metrics"] for r in runs.values()]
        cost = PAPER_COST.get(number)
        cells = [
            str(number or ""),
            row.stem.partition("_")[2] if number else row.stem,
            str(len(runs)),
            mean_and_spread([m["AP50"] for m in metrics if "AP50" in m], 1),
            mean_and_spread([m["AP"] for m in metrics if "AP" in m], 1),
            str(PAPER_MAP.get(number, "")),
            seconds_of(runs),
            mean_and_spread([r["peak_bytes"] / 2**30 for r in runs.values()], 2),
            f"{cost[0]:.2f}, {cost[1]}" if cost else "",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "The paper's figures are not confirmed but for rows 12 and 13, see README.md."]
    return lines


def seconds_of(runs: dict[int, dict]) -> str:
    cell = mean_and_spread([run["seconds"] for run in runs.values()], 2)
    sweeps = [run["sweep_seconds"] for run in runs.values()]
    return f"{cell}, and {np.mean(sweeps):.2f} in sweeps" if any(sweeps) else cell


CSV_FIELDS = ("row", "experiment", "seed", "AP", "AP50", "AP75")
CSV_FIELDS += ("seconds", "sweep_seconds", "peak_bytes")


def csv_rows(row: Path, runs: dict[int, dict]) -> list[dict]:
    return [
        {
            "row": number_of(row.stem),
            "experiment": row.stem,
            "seed": seed,
            **run["metrics"],
            "seconds": run["seconds"],
            "sweep_seconds": run["sweep_seconds"],
            "peak_bytes": run["peak_bytes"],
        }
        for seed, run in runs.items()
    ]


def draw(results: dict[Path, dict[int, dict]], args: argparse.Namespace) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    finished = {row: runs for row, runs in results.items() if runs}
    if not finished:
        return
    figure, axes = pyplot.subplots(figsize=(8, 0.4 * len(finished) + 1.5))
    for place, runs in enumerate(finished.values()):
        values = [run["metrics"].get("AP50", 0.0) for run in runs.values()]
        axes.barh(place, statistics.mean(values), color="#9db8d2")
        axes.plot(values, [place] * len(values), "k.", markersize=5)
    axes.set_yticks(range(len(finished)), [row.stem for row in finished])
    axes.invert_yaxis()
    axes.set_xlabel("AP50 (bars: mean; dots: seeds)")
    axes.set_title(args.title)
    figure.tight_layout()
    figure.savefig(args.output / "table.png", dpi=120)
    pyplot.close(figure)

    curves = {
        row: [run["training_loss"] for run in runs.values() if run["training_loss"]]
        for row, runs in finished.items()
    }
    curves = {row: runs for row, runs in curves.items() if runs}
    if not curves:
        return
    figure, axes = pyplot.subplots(figsize=(6, 4))
    for row, runs in curves.items():
        # those that every seed has, as numbers
        iterations = sorted(set.intersection(*(set(map(int, run)) for run in runs)))
        means = [statistics.mean(run[str(i)] for run in runs) for i in iterations]
        axes.plot(iterations, means, "o-", label=row.stem)
    axes.set_xlabel("iteration")
    axes.set_ylabel("mean loss over all RoIs of the training set")
    axes.set_yscale("log")
    axes.legend()
    figure.tight_layout()
    figure.savefig(args.output / "training_loss.png", dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run-one"]:
        run_one(sys.argv[2], sys.argv[3], sys.argv[4:])
    else:
        main()
