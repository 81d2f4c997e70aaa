"""
Object proposals for training Fast R-CNN, as Detectron2's proposal files. ::

    python projects/paper/make_proposals.py selective-search DATA OUTPUT.pkl --workers 8
    python projects/paper/make_proposals.py rpn DATA OUTPUT.pkl --config-file FILE --weights FILE
    python projects/paper/make_proposals.py from-mat DATA voc_2007_trainval.mat OUTPUT.pkl
    python projects/paper/make_proposals.py recall DATA FILE.pkl   # is the file good?
    python projects/paper/make_proposals.py check DATA FILE.pkl    # is it sound?

DATA is the name of a data set that Detectron2 or voc.py knows, coco:ANNOTATIONS.json:IMAGE_FOLDER
or voc:FOLDER:SPLIT. The file goes into DATASETS.PROPOSAL_FILES_TRAIN or _TEST.

Searches that are killed go on where they were when the same command is given again.
"""

import argparse
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

# Every worker of the search imports this file. What loads PyTorch is therefore imported where it is
# used, which spares each of them seconds and hundreds of megabytes.
from tqdm import tqdm


def main(argv: Sequence[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    try:
        args.run(args)
    except (OSError, ValueError, ImportError, RuntimeError) as e:
        raise SystemExit(str(e)) from e


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Make proposal files; see the file's head.")
    commands = parser.add_subparsers(required=True)

    def command(name: str, run: Callable, *files: str, help: str) -> argparse.ArgumentParser:
        new = commands.add_parser(
            name, help=help, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        new.set_defaults(run=run)
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

    new = command("selective-search", selective_search, "output", help="by OpenCV")
    new.add_argument("--mode", choices=["fast", "quality"], default="fast")
    new.add_argument(
        "--width", type=positive(int), help="of images in the search (R-CNN: 500); else as they are"
    )
    new.add_argument("--seed", type=int, default=0, help="of the proposals' random ranks")
    new.add_argument("--workers", type=positive(int), default=os.cpu_count(), help="processes")

    new = command("rpn", rpn, "output", help="by a trained RPN")
    new.add_argument("--config-file", required=True, help="a file, or a name in the model zoo")
    new.add_argument("--weights", default="", help="a checkpoint; else that of the config file")
    new.add_argument("--opts", nargs="+", default=[], help="KEY VALUE ... of the configuration")

    command("from-mat", from_mat, "mat", "output", help="from MATLAB's format")
    command("recall", print_recall, "file", help="print a table of the recall")
    command("check", check, "file", help="check a file of whatever origin")
    return parser


def positive(kind: type) -> Callable:
    def convert(text: str) -> int | float:
        value = kind(text)
        if not value > 0:
            raise ValueError
        return value

    convert.__name__ = f"positive {kind.__name__}"  # argparse names it in its errors
    return convert


def selective_search(args: argparse.Namespace) -> None:
    from proposal_files import logits_of_order
    from selective_search import search_data_set

    head = {key: getattr(args, key) for key in ("mode", "width", "seed")}

    def search(records: Sequence[dict]) -> Iterable:
        for record, boxes in search_data_set(records, **head, workers=args.workers):
            yield record, boxes, logits_of_order(len(boxes))

    make(args, head, search)


def rpn(args: argparse.Namespace) -> None:
    from rpn_proposals import load_rpn, propose_data_set, rpn_config

    cfg = rpn_config(args.config_file, args.weights, args.opts)
    head = {"configuration": cfg.dump()}
    if os.path.isfile(cfg.MODEL.WEIGHTS):
        head["date of the weights"] = os.path.getmtime(cfg.MODEL.WEIGHTS)

    def search(records: Sequence[dict]) -> Iterable:
        model = load_rpn(cfg)
        for record, boxes, logits in propose_data_set(model, cfg, records):
            yield record, boxes.cpu().numpy(), logits.cpu().numpy()

    make(args, head, search)


def from_mat(args: argparse.Namespace) -> None:
    from mat_proposals import read_mat
    from proposal_files import logits_of_order, select_boxes, write_proposal_file

    refuse_to_overwrite(args.output)
    records = load_records(args.data)
    boxes = [
        b[select_boxes(b, args.min_size, args.max_proposals)] for b in read_mat(args.mat, records)
    ]
    logits = [logits_of_order(len(b)) for b in boxes]
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_proposal_file(args.output, [r["image_id"] for r in records], boxes, logits)
    print(f"{args.output}: {sum(map(len, boxes))} proposals for {len(boxes)} images")


def print_recall(args: argparse.Namespace) -> None:
    from proposal_files import proposals_of_records
    from proposal_recall import objects_of, recall_table

    records = load_records(args.data, difficult=False)
    proposals = proposals_of_records(args.file, records)
    print(recall_table(proposals, [objects_of(r) for r in records]))


def check(args: argparse.Namespace) -> None:
    from proposal_files import check_proposal_file

    records = load_records(args.data)
    check_proposal_file(args.file, records)
    print(f"{args.file} has proposals for all {len(records)} images of {args.data}")


def make(args: argparse.Namespace, head: dict, search: Callable) -> None:
    """
    Run a search over the data set and write its file.

    Args:
        head: what the search depends on.
        search: yields for records, in any order, the record, boxes (n, 4) with the best first and
            logits (n,).
    """
    from journal import Journal
    from proposal_files import plain_id, select_boxes, write_proposal_file

    refuse_to_overwrite(args.output)
    records = load_records(args.data)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    head = {key: getattr(args, key) for key in ("data", "min_size", "max_proposals")} | head
    path = args.output.with_name(args.output.name + ".journal")
    with Journal(path, head) as journal:
        done = journal.entries
        todo = [r for r in records if plain_id(r["image_id"]) not in done]
        with tqdm(total=len(records), initial=len(records) - len(todo), unit="image") as bar:
            for record, boxes, logits in search(todo) if todo else ():
                keep = select_boxes(boxes, args.min_size, args.max_proposals)
                journal.append(plain_id(record["image_id"]), (boxes[keep], logits[keep]))
                bar.update()
    ids = [plain_id(r["image_id"]) for r in records]
    write_proposal_file(args.output, ids, *zip(*(done[i] for i in ids)))
    path.unlink()
    num = sum(len(done[i][0]) for i in ids)
    print(f"{args.output}: {num} proposals for {len(ids)} images")


def refuse_to_overwrite(output: Path) -> None:
    if output.exists():
        raise ValueError(f"{output} exists; remove it to make it anew")


def load_records(name: str, difficult: bool = True) -> list[dict]:
    """
    Args:
        difficult: whether to keep the difficult objects of VOC data.
    """
    import voc
    from detectron2.data import DatasetCatalog, MetadataCatalog

    from ohem_d2.data.datasets import register_datasets

    register_datasets([name])
    if name not in DatasetCatalog.list():
        raise ValueError(
            f"{name} is no data set that Detectron2 or projects/paper/voc.py knows, nor of the "
            "form coco:ANNOTATIONS.json:IMAGE_FOLDER or voc:FOLDER:SPLIT"
        )
    try:
        records = DatasetCatalog.get(name)
    except FileNotFoundError as e:
        raise FileNotFoundError(
            f"{name}: {e.filename} does not exist. Detectron2 looks for its data sets in the "
            "folder that the environment variable DETECTRON2_DATASETS names, else in datasets/"
        ) from e
    if not records:
        raise ValueError(f"{name} has no images")
    meta = MetadataCatalog.get(name)
    is_voc = meta.get("evaluator_type") == "pascal_voc"
    if not difficult and is_voc and not meta.get("without_difficult"):
        return voc.without_difficult(records, meta.dirname)
    return records


if __name__ == "__main__":
    main()
