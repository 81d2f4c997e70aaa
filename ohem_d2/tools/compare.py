"""
Does OHEM help on your data? Trains the same detector with random sampling and with OHEM, with
several seeds, and compares the results. ::

    python -m ohem_d2 compare --train-data coco:mine/train.json:mine/images \\
        --test-data coco:mine/test.json:mine/images

Run the same command again to continue an interrupted comparison. OUTPUT/compare.html has the
answer, and OUTPUT/compare.json has the numbers.
"""

import argparse
import json
import math
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode

from . import runs
from .check import check_whole
from .cli import add_shared_arguments, at_least, device
from .comparison import one_run, paired, plan
from .comparison.page import write_page
from .data.datasets import FORMS, name_of_negatives
from .files import write_atomically
from .keys import check_config

# Columns of the table: a key of a run's result, and what it is called
COLUMNS = {name: name for name in ("AP", "AP50", "AP75")}
COLUMNS |= {"APs": "small", "APm": "medium", "APl": "large", "false_alarms": "false alarms"}

Results = dict[str, dict[int, dict]]  # by variant and seed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments, see --help."""
    add = parser.add_argument
    data = f"{FORMS}, or a registered name; may be repeated"
    add("--train-data", action="append", required=True, metavar="DATA", help=data)
    split = "; default: a fifth of the training images, chosen with a fixed seed"
    add("--test-data", action="append", metavar="DATA", help=f"the same{split}")
    samplers = f"{plan.FORMS}; the others are compared with the first"
    add("--samplers", nargs="+", default=["random:128", "ohem:128"], metavar="S", help=samplers)
    add("--seeds", type=at_least(1), default=3, help="number of seeds (default: %(default)s)")
    add("--config-file", metavar="FILE", help="or a model zoo name, instead of the proxy detector")
    add("--test-negatives", metavar="FOLDER", help="images without objects, for false alarms")
    add("--output", type=Path, default=Path("output/compare"), metavar="FOLDER")
    devices = "one run at a time on each, e.g. cuda:0 cuda:1, or cpu cpu"
    add("--devices", nargs="+", type=device, default=plan.default_devices(), help=devices)
    add("--threads", type=int, help="threads of each process")
    add_shared_arguments(parser, "--import", "--trust", "--classes")
    add("opts", nargs="*", metavar="KEY VALUE", help="overrides for all samplers")


def run(args: argparse.Namespace) -> None:
    """Train what is missing, then answer. InputError says what is wrong with the input."""
    cfg = plan.shared_cfg(args)
    compared = plan.variants_of(cfg, args.samplers)
    seeds = range(1, args.seeds + 1)
    first, *others = (variant.clone() for variant in compared.values())
    for checked in (first, *others):
        checked.OUTPUT_DIR, checked.MODEL.DEVICE = str(args.output), args.devices[0]
    for checked in others:
        check_config(checked)
    check_whole(first, args.classes, training=True, overwrite=True)
    negatives = args.test_negatives and name_of_negatives(args.test_negatives)
    given = {"modules": args.modules, "classes": args.classes, "negatives": negatives}
    variants = {name: variant_of(name, cfg, **given) for name, cfg in compared.items()}
    threads = args.threads or max((os.cpu_count() or 1) // len(args.devices), 1)
    print(f"{len(compared)} samplers, {args.seeds} seeds, {cfg.SOLVER.MAX_ITER} iterations each")
    failed = runs.run_all(list(variants.values()), seeds, args.output, args.devices, threads)
    results = {name: runs.results_of(v, seeds, args.output) for name, v in variants.items()}
    answer = sentences(results)
    print("\n" + "\n".join([*table(results), "", *answer]))
    command = "python -m ohem_d2 " + shlex.join(sys.argv[1:])
    content = {"command": command, "answer": answer, "results": results}
    write_atomically(args.output / "compare.json", json.dumps(content, indent=1))
    if shared := set.intersection(*map(set, results.values())):
        folders = {n: runs.folder_of(v, min(shared), args.output) for n, v in variants.items()}
        page = write_page(args.output / "compare.html", compared, folders, content, table(results))
        print(f"\n{page} has the curve, classes and pictures")
    if failed:
        raise SystemExit(f"{len(failed)} runs failed; see {', '.join(map(str, failed))}")


def variant_of(
    name: str,
    cfg: CfgNode,
    *,
    modules: Sequence[str] = (),
    classes: Sequence[str] = (),
    negatives: str | None = None,
    folder: str = "",
) -> runs.Variant:
    """
    The runs of a configuration, in ``folder``, which is by default named after the sampler.
    ``{seed}`` in a name of its data stands for the seed of a run. ``modules`` are imported, and
    ``negatives`` names images without objects.
    """
    text = cfg.dump()
    data = [name.split(":") for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)]
    files = [Path(name[1]) for name in data if name[0] == "coco" and "{seed}" not in name[1]]
    given = {"modules": [*modules], "classes": [*classes], "negatives": negatives}

    def command(seed: int, device: str, folder: Path) -> Sequence[str]:
        write_atomically(folder / "given.yaml", text.replace("{seed}", str(seed)))
        of_run = json.dumps({**given, "seed": seed, "device": device, "folder": str(folder)})
        return [sys.executable, "-W", "ignore", "-m", one_run.__name__, of_run]

    folder = folder or re.sub(r"[^\w.-]+", "-", name)
    settings = runs.fingerprint(text, json.dumps(given), *files)
    return runs.Variant(folder, settings, command, cfg.SOLVER.MAX_ITER)


def table(results: Results) -> list[str]:
    """Markdown: a row for each sampler, with the difference of AP and AP75 from the first's."""
    of_all = [result for by_seed in results.values() for result in by_seed.values()]
    keys = [key for key in COLUMNS if any(not math.isnan(r.get(key, math.nan)) for r in of_all)]
    (name, first), *_ = results.items()
    header = ["sampler", "seeds", *(COLUMNS[key] for key in keys)]
    header += [f"{key} minus {name}, 95 %" for key in ("AP", "AP75")]
    rows = []
    for name, by_seed in results.items():
        found = ((k, [r[k] for r in by_seed.values() if k in r]) for k in keys)
        cells = [runs.mean_and_spread(v, 2 if k == "false_alarms" else 1) for k, v in found]
        beyond = [difference(by_seed, first, key) for key in ("AP", "AP75")]
        rows.append([name, str(len(by_seed)), *cells, *beyond])
    return runs.markdown_table(header, rows)


def difference(by_seed: dict[int, dict], first: dict[int, dict], key: str) -> str:
    """The paired difference of a sampler from the first, with its interval; "" for the first."""
    found = None if by_seed is first else paired.paired(values(by_seed, key), values(first, key))
    if found is None:
        return ""
    mean, low, high = (f"{x:+.1f}" for x in (found.mean, found.low, found.high))
    return f"{mean} ({low} to {high})" if found.n > 1 else mean


def values(by_seed: dict[int, dict], key: str) -> dict:
    """The value of a key in the runs of a sampler, by seed."""
    return {seed: result[key] for seed, result in by_seed.items()}


def sentences(results: Results) -> list[str]:
    """The verdict on each sampler but the first, in sentences."""
    (first, baseline), *others = results.items()
    out = []
    for name, by_seed in others:
        aps = values(by_seed, "AP"), values(baseline, "AP")
        curves = values(by_seed, "curve"), values(baseline, "curve")
        out += [paired.verdict(name, first, *aps), paired.head_start(name, first, *curves)]
    return [sentence for sentence in out if sentence]
