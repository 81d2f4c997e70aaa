"""
What would OHEM pick here, and why? Makes a picture and a table for your images and your model,
trained or not. ::

    python -m ohem_d2 inspect --config-file output/config.yaml --weights output/model_final.pth \\
        --dataset coco:train.json:images/ --num 4
    python -m ohem_d2 inspect --config-file COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml \\
        --weights model.pkl --image photo.jpg --annotations photo.json

A loss needs labels, so give an image with its annotations, in COCO format, or with --no-objects.
Plain heads are replaced by their OHEM counterpart. For each image, FOLDER/NAME.png shows the mined
RoIs, with rank and loss of the hardest. FOLDER/NAME.csv has a row for each candidate, and the
hardest rows are printed.
"""

import argparse
import csv
import io
import itertools
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from detectron2.data import MetadataCatalog
from detectron2.data.detection_utils import read_image
from tabulate import tabulate

from .cli import at_least
from .data.datasets import FORMS
from .drawing import encode, mined_picture
from .errors import InputError, printable
from .explain import COLUMNS, explain, mine
from .files import write_output
from .load_data import image_mapper, load_image_record, load_records, spread
from .load_model import add_model_arguments, load_cfg, load_model


def run(args: argparse.Namespace) -> None:
    """Write and print what the arguments ask for."""
    labelled = args.annotations or args.no_objects
    if args.image and not labelled:
        raise InputError(
            f"--image {args.image} has no labels, and the loss of a RoI needs them. Add "
            "--annotations FILE (COCO format), or --no-objects if it shows none, or use --dataset"
        )
    if args.dataset and labelled:
        own = "--dataset has its own labels"
        raise InputError(f"{own}; --annotations and --no-objects go with --image")
    how = {"weights": args.weights, "overrides": args.opts, "modules": args.modules}
    cfg = load_cfg(args.config_file, **how)
    if args.dataset:
        records = spread(load_records(cfg, [args.dataset], args.classes), args.num)
        classes = MetadataCatalog.get(args.dataset).get("thing_classes")
    else:
        record, classes = load_image_record(cfg, args.image, args.annotations)
        records = [record]
    model, notes = load_model(cfg)
    to_inputs, ohem = image_mapper(cfg), model.roi_heads.ohem
    print(f"loss = {ohem.rank_cls_weight} x cls + {ohem.rank_loc_weight} x loc")
    folder = args.output or Path(cfg.OUTPUT_DIR) / "inspect"
    names, how = set(), {"nms_thresh": ohem.nms_thresh, "nms_scope": ohem.nms_scope}
    for record in records:
        minings, stem = mine(model, to_inputs(record)), Path(record["file_name"]).stem
        image = read_image(record["file_name"], "RGB")
        for mining in minings:
            rows = explain(mining, **how, classes=classes, size=image.shape[:2])
            numbered = (f"{stem}-{number}" for number in itertools.count(2))
            name = next(n for n in itertools.chain([stem], numbered) if n not in names)
            names.add(name)
            mined = [row for row in rows if row["status"] == "mined"]
            labels = [f"{row['rank']}: {row['loss']:.2f}" for row in mined[: args.top]]
            picture = mined_picture(mining, image, labels)
            write_output(folder / f"{name}.png", encode(picture, ".png"))
            write_output(folder / f"{name}.csv", to_csv(rows))
            stage = f", stage {mining.stage} of the cascade" if mining.stage else ""
            print(f"\n{printable(str(record['file_name']))}{stage}\n{summary(rows)}\n")
            print(table(rows[: args.top]))
            print(f"\n{folder / name}.png, {folder / name}.csv")
    for note in notes:
        print(f"\n{note}", file=sys.stderr)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_model_arguments(parser, config_required=True)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--image", type=Path, metavar="FILE")
    what.add_argument("--dataset", metavar="DATA", help=f"{FORMS}, or a registered name")
    labels, add = parser.add_mutually_exclusive_group(), parser.add_argument
    labels.add_argument("--annotations", type=Path, metavar="FILE", help="in COCO format")
    labels.add_argument("--no-objects", action="store_true", help="the image has no objects")
    add("--num", type=at_least(1), default=4, help="number of images of --dataset (4)")
    add("--top", type=at_least(0), default=20, help="number of rows to print (20)")
    add("--output", type=Path, metavar="FOLDER", help="for the files (OUTPUT_DIR/inspect)")


def summary(rows: Sequence[dict]) -> str:
    """Say how many rows of ``explain`` were mined, and what became of the others."""
    count = Counter(row["status"] for row in rows)
    mined = [row for row in rows if row["status"] == "mined"]
    foreground = sum(row["foreground"] for row in mined)
    kinds = f"{foreground} foreground, {len(mined) - foreground} background"
    bounds = f", losses {mined[0]['loss']:.3f} to {mined[-1]['loss']:.3f}" if mined else ""
    others = f"{count['suppressed']} suppressed by a harder one, {count['below the cut']} below"
    return f"{len(rows)} candidates: {len(mined)} mined ({kinds}{bounds}), {others} the cut"


def table(rows: Sequence[dict]) -> str:
    """The rows as a table for people to read."""
    cells = [
        [
            row["rank"],
            *(f"{row[key]:.3f}" for key in ("loss", "loss_cls", "loss_loc")),
            row["label"],
            f"{row['iou']:.2f}",
            " ".join(f"{row[key]:.0f}" for key in ("x0", "y0", "x1", "y1")),
            f"suppressed by {row['suppressed_by']}" if row["suppressed_by"] else row["status"],
        ]
        for row in rows
    ]
    headers = ["rank", "loss", "cls", "loc", "label", "IoU", "box", "what became of it"]
    sides = ("right",) * 4 + ("left", "right", "left", "left")
    return tabulate(cells, headers, disable_numparse=True, colalign=sides)


def to_csv(rows: Sequence[dict]) -> str:
    """The rows of ``explain`` with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
