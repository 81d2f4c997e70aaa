"""
The demo's recipe with different samplers, several seeds each: mean and standard deviation of AP,
and the time of an iteration. ::

    make compare
    PYTHONPATH=. python projects/tree_crowns/compare.py --seeds 1 2 --devices cpu cpu --threads 1 \\
        --variants "random:random.yaml" "half:ohem.yaml MODEL.ROI_HEADS.OHEM.RANK_LOC_WEIGHT 0.5"

Every run is a process of its own, one a device at a time. Finished runs are kept in the output
folder and not repeated, and one that was killed goes on from its last checkpoint, so an interrupted
comparison goes on where it was. Other settings or other code are other runs.
"""

import argparse
import platform
import sys
from pathlib import Path

import torch

from ohem_d2.tools import runs
from projects.tree_crowns import prepare_data
from projects.tree_crowns.trainer import CONFIGS, setup, train

VARIANTS = ("random sampling:random.yaml", "OHEM:ohem.yaml")
METRICS = ("AP", "AP50", "AP75")
# The first argument of the process of a run
RUN = "--run-one"


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare samplers; see the file's head.")
    parser.add_argument("--output", type=Path, default=prepare_data.ROOT / "output/compare")
    parser.add_argument("--data", type=Path, default=prepare_data.DATA)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--devices", nargs="+", default=[device], help="cuda:0 cuda:1, cpu cpu")
    parser.add_argument("--threads", type=int, help="of each process")
    parser.add_argument(
        "--variants", nargs="+", default=VARIANTS, metavar='"NAME:CONFIG [KEY VALUE ...]"'
    )
    args = parser.parse_args()
    prepare_data.prepare(args.data)  # now, so that no two runs do
    variants = {text.partition(":")[0]: variant_of(text, args.data) for text in args.variants}
    failed = runs.run_all(
        list(variants.values()), args.seeds, args.output, args.devices, args.threads
    )
    results = {n: runs.results_of(v, args.seeds, args.output) for n, v in variants.items()}
    print(table(results, args.threads or torch.get_num_threads()))
    if failed:
        raise SystemExit(f"{len(failed)} runs failed; see {', '.join(map(str, failed))}")


def variant_of(text: str, data: Path) -> runs.Variant:
    """
    Args:
        text: NAME:CONFIG [KEY VALUE ...].
    """
    name, _, what = text.partition(":")
    config, *overrides = what.split()
    sources = [*CONFIGS.glob("*.yaml"), *CONFIGS.parent.glob("*.py")]
    sources += (prepare_data.ROOT / "ohem_d2").rglob("*.py")
    settings = runs.fingerprint(*sorted(sources), what)

    def command(seed: int, device: str, folder: Path) -> list[str]:
        run = [config, str(data), str(folder), str(seed), "MODEL.DEVICE", device]
        run += ["SOLVER.CHECKPOINT_PERIOD", "250", *overrides]
        return [sys.executable, "-W", "ignore", __file__, RUN, *run]

    return runs.Variant(f"{name.replace(' ', '-')}-{settings[:8]}", settings, command)


def run_one(config: str, data: str, folder: str, seed: str, *overrides: str) -> None:
    runs.end_with_parent()
    cfg = setup(config, Path(data), Path(folder), int(seed), overrides)
    results = train(cfg, resume=True).last_results["bbox"]
    seconds = runs.seconds_per_iteration(runs.read_metrics(folder))
    runs.write_result(folder, {**{key: results[key] for key in METRICS}, "seconds": seconds})


def table(results: dict[str, dict[int, dict]], threads: int) -> str:
    """Markdown: a row for each variant, mean ± standard deviation over the seeds."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    rows = []
    for name, by_seed in results.items():
        cells = [name, str(len(by_seed))]
        for key, digits in (*((metric, 1) for metric in METRICS), ("seconds", 2)):
            cells.append(runs.mean_and_spread([r[key] for r in by_seed.values()], digits))
        rows.append(cells)
    lines = runs.markdown_table(["variant", "seeds", *METRICS, "s / iteration"], rows)
    return "\n".join([f"{threads} threads, {device}, torch {torch.__version__}", "", *lines])


if __name__ == "__main__":
    run_one(*sys.argv[2:]) if sys.argv[1:2] == [RUN] else main()
