"""
The demo's recipe with different samplers, several seeds each: mean and standard deviation of AP,
and the time of an iteration. ::

    python projects/tree_crowns/compare.py
    python projects/tree_crowns/compare.py --seeds 1 2 --variants \\
        "random:random.yaml" "half:ohem.yaml MODEL.ROI_HEADS.OHEM.RANK_LOC_WEIGHT 0.5"

Finished runs are kept in the output folder and not repeated, so an interrupted comparison goes on
where it stopped. A run of a seed follows the other variants' runs of that seed, so that a machine
that slows down slows all alike.
"""

import argparse
import hashlib
import json
import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path

import prepare_data
import torch
from demo import train
from trainer import CONFIGS, setup

VARIANTS = ("random sampling:random.yaml", "OHEM:ohem.yaml")
METRICS = ("AP", "AP50", "AP75")


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare samplers; see the file's head.")
    parser.add_argument("--output", type=Path, default=prepare_data.ROOT / "output/compare")
    parser.add_argument("--data", type=Path, default=prepare_data.DATA)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument(
        "--variants", nargs="+", default=VARIANTS, metavar='"NAME:CONFIG [KEY VALUE ...]"'
    )
    args = parser.parse_args()
    results: dict[str, list[dict]] = {variant: [] for variant in args.variants}
    for seed in args.seeds:
        for variant in args.variants:
            results[variant].append(run(variant, seed, args.data, args.output))
    print(table(results))


def run(variant: str, seed: int, data: Path, output: Path) -> dict:
    """One training run, or what is kept of it."""
    name, _, what = variant.partition(":")
    config, *overrides = what.split()
    # The folder is named by what makes the result, settings and code: if they change, it is
    # another run.
    sources = [*CONFIGS.glob("*.yaml"), *CONFIGS.parent.glob("*.py")]
    sources += (prepare_data.ROOT / "ohem_d2").glob("*.py")
    settings = "".join(path.read_text() for path in sorted(sources))
    digest = hashlib.sha256(f"{settings}{what}".encode()).hexdigest()[:8]
    folder = output / f"{name.replace(' ', '-')}-{digest}" / f"seed{seed}"
    kept = folder / "result.json"
    if kept.exists():
        return json.loads(kept.read_text())
    (folder / "metrics.json").unlink(missing_ok=True)  # of an interrupted run
    results = train(setup(config, data, folder, seed, overrides)).last_results["bbox"]
    # Detectron2's own measure: seconds from step to step, without evaluation.
    lines = (folder / "metrics.json").read_text().splitlines()
    times = [record["time"] for record in map(json.loads, lines) if "time" in record]
    result = {metric: results[metric] for metric in METRICS}
    result["seconds"] = statistics.median(times)
    part = kept.with_suffix(".part")
    part.write_text(json.dumps(result))
    os.replace(part, kept)
    return result


def table(results: dict[str, Sequence[dict]]) -> str:
    """Markdown: a row for each variant, mean ± standard deviation over the seeds."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    rows = [
        f"{torch.get_num_threads()} threads, {device}, torch {torch.__version__}",
        "",
        "| variant | seeds | " + " | ".join(METRICS) + " | s / iteration |",
        "|---|---|" + "---|" * (len(METRICS) + 1),
    ]
    for variant, runs in results.items():
        cells = [variant.partition(":")[0], str(len(runs))]
        for key, digits in (*((metric, 1) for metric in METRICS), ("seconds", 2)):
            values = [r[key] for r in runs]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{statistics.mean(values):.{digits}f} ± {spread:.{digits}f}")
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
