"""
Object proposals for training Fast R-CNN, as Detectron2's proposal files. ::

    python projects/paper/make_proposals.py selective-search DATA OUTPUT.pkl --workers 8

DATA is the name of a data set that Detectron2 knows, coco:ANNOTATIONS.json:IMAGE_FOLDER or
voc:FOLDER:SPLIT.
"""

import argparse
import os
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from detectron2.data import DatasetCatalog
from tqdm import tqdm

from ohem_d2.datasets import register_datasets
from proposal_files import logits_of_order, write_proposal_file
from selective_search import Journal, Settings, head_of, search_all


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Make proposal files; see the file's head.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("selective-search", help="by OpenCV, over several processes")
    command.add_argument("data")
    command.add_argument("output", type=Path)
    command.add_argument("--mode", choices=["fast", "quality"], default="fast")
    command.add_argument("--width", type=int, default=0)
    command.add_argument("--min-size", type=float, default=2)
    command.add_argument("--max-proposals", type=int, default=2000)
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--workers", type=int, default=os.cpu_count())
    command.set_defaults(run=selective_search)
    args = parser.parse_args(argv)
    try:
        args.run(args)
    except (OSError, ValueError, ImportError) as e:
        raise SystemExit(str(e)) from e


def selective_search(args: argparse.Namespace) -> None:
    if args.output.exists():
        raise ValueError(f"{args.output} exists; remove it to make it anew")
    records = load_records(args.data)
    settings = Settings(**{f.name: getattr(args, f.name) for f in fields(Settings)})
    args.output.parent.mkdir(parents=True, exist_ok=True)
    path = args.output.with_name(args.output.name + ".journal")
    journal = Journal(path, head_of(args.data, settings))
    with tqdm(total=len(records), unit="image") as bar:
        for done in search_all(records, settings, journal, args.workers):
            bar.n = bar.initial = done if bar.n == 0 else bar.initial
            bar.n = done
            bar.refresh()
    ids = [r["image_id"] for r in records]
    boxes = [journal.entries[str(i)] for i in ids]
    write_proposal_file(args.output, ids, boxes, [logits_of_order(len(b)) for b in boxes])
    journal.file.close()
    path.unlink()
    print(f"{args.output}: {sum(map(len, boxes))} proposals for {len(boxes)} images")


def load_records(name: str) -> list[dict]:
    register_datasets([name])
    return DatasetCatalog.get(name)


if __name__ == "__main__":
    main()
