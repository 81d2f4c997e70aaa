"""
Object proposals for training Fast R-CNN, as Detectron2's proposal files. ::

    export PYTHONPATH=.
    python projects/paper/make_proposals.py selective-search DATA OUTPUT.pkl --workers 8
    python projects/paper/make_proposals.py from-mat DATA voc_2007_trainval.mat OUTPUT.pkl

DATA is the name of a data set that Detectron2 or ohem_paper/voc.py knows,
coco:ANNOTATIONS.json:IMAGE_FOLDER or voc:FOLDER:SPLIT. The file goes into
DATASETS.PROPOSAL_FILES_TRAIN or _TEST. The same command continues a search that was killed.
"""

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path


def main(argv: Sequence[str] | None = None) -> None:
    args = vars(make_parser().parse_args(argv))
    # What loads PyTorch is imported here, so that --help and wrong arguments take no seconds.
    from ohem_d2.tools.errors import errors_in_one_line
    from ohem_d2.tools.trust import trusting
    from projects.paper.ohem_paper.proposals import making

    runs = {"selective-search": making.by_selective_search, "from-mat": making.from_mat}
    run = runs[args.pop("command")]
    with errors_in_one_line("make_proposals.py"), trusting(args.pop("trust")):
        run(**args)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Make proposal files; see the docstring.")
    commands = parser.add_subparsers(required=True, dest="command")

    def command(name: str, *files: str, help: str) -> Callable:
        show_defaults = argparse.ArgumentDefaultsHelpFormatter
        new = commands.add_parser(name, help=help, formatter_class=show_defaults)
        new.add_argument("data", help="name of a data set")
        new.add_argument("--trust", action="store_true", help="let files that are read run code")
        for file in files:
            new.add_argument(file, type=Path)
        add = new.add_argument
        add("--min-size", type=float, default=2, help="smallest side, in pixels")
        add("--max-proposals", type=int, default=2000, help="most proposals per image")
        return add

    add = command("selective-search", "output", help="search with OpenCV")
    add("--mode", choices=["fast", "quality"], default="fast")
    add("--width", type=int, help="resize images to it for the search (R-CNN: 500)")
    add("--seed", type=int, default=0, help="seed of the random ranks")
    add("--workers", type=int, default=os.cpu_count(), help="number of threads")

    command("from-mat", "mat", "output", help="convert a MATLAB file")
    return parser


if __name__ == "__main__":
    main()
