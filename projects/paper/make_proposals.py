"""
Object proposals for training Fast R-CNN, as Detectron2's proposal files. ::

    python projects/paper/make_proposals.py selective-search DATA OUTPUT.pkl --workers 8
    python projects/paper/make_proposals.py rpn DATA OUTPUT.pkl --config-file FILE --weights FILE
    python projects/paper/make_proposals.py from-mat DATA voc_2007_trainval.mat OUTPUT.pkl
    python projects/paper/make_proposals.py recall DATA FILE.pkl   # is the file good?
    python projects/paper/make_proposals.py check DATA FILE.pkl    # is it sound?

DATA is the name of a data set that Detectron2 or ohem_paper/voc.py knows,
coco:ANNOTATIONS.json:IMAGE_FOLDER or voc:FOLDER:SPLIT. The file goes into
DATASETS.PROPOSAL_FILES_TRAIN or _TEST.

Searches that are killed go on where they were when the same command is given again.
"""

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path


def main(argv: Sequence[str] | None = None) -> None:
    args = vars(make_parser().parse_args(argv))
    # Every worker of the search imports this file. What loads PyTorch is therefore imported here,
    # which spares each of them seconds and hundreds of megabytes.
    from ohem_paper.proposals import making

    run = {
        "selective-search": making.by_selective_search,
        "rpn": making.by_rpn,
        "from-mat": making.from_mat,
        "recall": print_recall,
        "check": check,
    }[args.pop("command")]
    try:
        run(**args)
    except (OSError, ValueError, ImportError, RuntimeError) as e:
        raise SystemExit(str(e)) from e


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Make proposal files; see the file's head.")
    commands = parser.add_subparsers(required=True, dest="command")

    def command(name: str, *files: str, help: str) -> argparse.ArgumentParser:
        new = commands.add_parser(
            name, help=help, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        new.add_argument("data", help="name of a data set")
        for file in files:
            new.add_argument(file, type=Path)
        if "output" in files:
            new.add_argument(
                "--min-size", type=positive(float), default=2, help="of both sides, in pixels"
            )
            new.add_argument(
                "--max-proposals", type=positive(int), default=2000, help="of an image"
            )
        return new

    new = command("selective-search", "output", help="by OpenCV")
    new.add_argument("--mode", choices=["fast", "quality"], default="fast")
    new.add_argument(
        "--width", type=positive(int), help="of images in the search (R-CNN: 500); else as they are"
    )
    new.add_argument("--seed", type=int, default=0, help="of the proposals' random ranks")
    new.add_argument("--workers", type=positive(int), default=os.cpu_count(), help="processes")

    new = command("rpn", "output", help="by a trained RPN")
    new.add_argument("--config-file", required=True, help="a file, or a name in the model zoo")
    new.add_argument("--weights", default="", help="a checkpoint; else that of the config file")
    new.add_argument("--opts", nargs="+", default=[], help="KEY VALUE ... of the configuration")

    command("from-mat", "mat", "output", help="from MATLAB's format")
    command("recall", "file", help="print a table of the recall")
    command("check", "file", help="check a file of whatever origin")
    return parser


def positive(kind: type) -> Callable:
    def convert(text: str) -> int | float:
        value = kind(text)
        if not value > 0:
            raise ValueError
        return value

    convert.__name__ = f"positive {kind.__name__}"  # argparse names it in its errors
    return convert


def print_recall(data: str, file: Path) -> None:
    from ohem_paper.proposals.files import proposals_of_records
    from ohem_paper.proposals.making import load_records
    from ohem_paper.proposals.recall import objects_of, recall_table

    records = load_records(data, difficult=False)
    proposals = proposals_of_records(file, records)
    print(recall_table(proposals, [objects_of(r) for r in records]))


def check(data: str, file: Path) -> None:
    from ohem_paper.proposals.files import check_proposal_file
    from ohem_paper.proposals.making import load_records

    records = load_records(data)
    check_proposal_file(file, records)
    print(f"{file} has proposals for all {len(records)} images of {data}")


if __name__ == "__main__":
    main()
