"""
The demo's recipe with different samplers, several seeds each: mean and standard deviation of AP,
and the time of an iteration. ::

    make compare
    PYTHONPATH=. python projects/tree_crowns/compare.py --seeds 1 2 --devices cpu cpu --threads 1 \\
        --variants "random:random.yaml" "half:ohem.yaml MODEL.ROI_HEADS.OHEM.RANK_LOC_WEIGHT 0.5"

Every run is a process of its own, one a device at a time. An interrupted comparison goes on where
it was. Other settings or other code are other runs.
"""

import argparse
import sys
from pathlib import Path

import torch

from ohem_d2.tools import runs
from projects.tree_crowns import prepare_data
from projects.tree_crowns.trainer import CONFIGS, setup, train

VARIANTS = ("random sampling:random.yaml", "OHEM:ohem.yaml")
METRICS = ("AP", "AP50", "AP75")
RUN = "--run-one"  # the first argument of the process of a run


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare samplers; see the file's head.")
    add, device = parser.add_argument, "cuda" if torch.cuda.is_available() else "cpu"
    add("--output", type=Path, default=prepare_data.ROOT / "output/compare")
    add("--data", type=Path, default=prepare_data.DATA)
    add("--seeds", type=int, nargs="+", default=[1, 2, 3])
    add("--devices", nargs="+", default=[device], help="cuda:0 cuda:1, cpu cpu")
    add("--threads", type=int, help="of each process")
    add("--variants", nargs="+", default=VARIANTS, metavar='"NAME:CONFIG [KEY VALUE ...]"')
    args = parser.parse_args()
    prepare_data.prepare(args.data)  # now, so that no two runs do
    variants = [variant_of(text, args.data) for text in args.variants]
    failed = runs.run_all(variants, args.seeds, args.output, args.devices, args.threads)
    rows = []
    for text, variant in zip(args.variants, variants):
        results = list(runs.results_of(variant, args.seeds, args.output).values())
        cells = [runs.mean_and_spread([r[key] for r in results], 1) for key in METRICS]
        seconds = runs.mean_and_spread([r["seconds"] for r in results], 2)
        rows.append([text.partition(":")[0], str(len(results)), *cells, seconds])
    header = ["variant", "seeds", *METRICS, "s / iteration"]
    print("\n".join(runs.markdown_table(header, rows)))
    if failed:
        raise SystemExit(f"{len(failed)} runs failed; see {', '.join(map(str, failed))}")


def variant_of(text: str, data: Path) -> runs.Variant:
    """From NAME:CONFIG [KEY VALUE ...]."""
    name, _, what = text.partition(":")
    config, *overrides = what.split()
    sources = [*CONFIGS.parent.rglob("*.yaml"), *CONFIGS.parent.glob("*.py")]
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


if __name__ == "__main__":
    run_one(*sys.argv[2:]) if sys.argv[1:2] == [RUN] else main()
