"""Proposal files for a data set, by selective search, of an RPN, or from MATLAB's files."""

import functools
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from tqdm import tqdm

from ohem_d2.tools.data.datasets import register_datasets
from ohem_d2.tools.files import write_atomically
from ohem_d2.tools.runs import fingerprint

from .. import voc
from .files import check_proposal_file, logits_of_order, select_boxes, write_proposal_file
from .mat import read_mat
from .recall import objects_of, recall_table
from .rpn import load_rpn, propose_data_set, rpn_config
from .selective_search import search_data_set

# For records, in any order, the record, boxes (n, 4), the best first, and logits (n,).
Found = Iterable[tuple[dict, np.ndarray, np.ndarray]]


def by_selective_search(
    data: str,
    output: Path,
    *,
    mode: str = "fast",
    width: int | None = None,
    seed: int = 0,
    workers: int | None = None,
    **limits: float,
) -> None:
    """
    For a data set by name, see :func:`load_records`, to a file that must not be there yet. A search
    that is killed goes on where it was when it is called again. For mode, width and seed see
    :func:`.selective_search.search_image`; it takes as many workers as the computer has cores if
    None. The limits are ``min_size`` of both sides, in pixels (2), and ``max_proposals`` of an
    image (2000). Errors say what is wrong and what to do.
    """
    head = {"mode": mode, "width": width, "seed": seed}

    def search(records: Sequence[dict]) -> Found:
        for record, boxes in search_data_set(records, **head, workers=workers or os.cpu_count()):
            yield record, boxes, logits_of_order(len(boxes))

    _make(data, output, head, search, **limits)


def by_rpn(
    data: str, output: Path, *, config_file: str, weights: str, opts: Sequence[str], **limits: float
) -> None:
    """The same by an RPN, for whose arguments see :func:`.rpn.rpn_config`."""
    cfg = rpn_config(config_file, weights, opts)
    head = {"configuration": cfg.dump()}
    if os.path.isfile(cfg.MODEL.WEIGHTS):
        head["date of the weights"] = os.path.getmtime(cfg.MODEL.WEIGHTS)
    _make(data, output, head, lambda todo: propose_data_set(load_rpn(cfg), cfg, todo), **limits)


def from_mat(data: str, mat: Path, output: Path, min_size: float, max_proposals: int) -> None:
    """The same from a file for :func:`.mat.read_mat`, at once."""
    _refuse_to_overwrite(output)
    records = load_records(data)
    boxes = [b[select_boxes(b, min_size, max_proposals)] for b in read_mat(mat, records)]
    _write(output, records, boxes, [logits_of_order(len(b)) for b in boxes])


def print_recall(data: str, file: Path) -> None:
    """As a table, of the objects that are not difficult."""
    records = load_records(data, difficult=False)
    print(recall_table(check_proposal_file(file, records), [objects_of(r) for r in records]))


def check(data: str, file: Path) -> None:
    """Raises FileNotFoundError, ValueError: see :func:`.files.check_proposal_file`."""
    records = load_records(data)
    check_proposal_file(file, records)
    print(f"{file} has proposals for all {len(records)} images of {data}")


def _make(data, output, head, search, min_size=2, max_proposals=2000) -> None:
    """Run a search, from records to :data:`Found`, which ``head`` describes, and write its file."""
    _refuse_to_overwrite(output)
    records = load_records(data)
    head = {"data": data, "min_size": min_size, "max_proposals": max_proposals, **head}
    head["list of images"] = fingerprint(*(str(r["image_id"]) for r in records))
    # What is found in an image has a file of its own, so that a search that is killed can go on.
    parts = output.with_name(output.name + ".parts")
    _compare(parts / "settings.json", head)
    files = {str(r["image_id"]): parts / f"{i}.npz" for i, r in enumerate(records)}
    todo = [r for r in records if not files[str(r["image_id"])].exists()]
    with tqdm(total=len(records), initial=len(records) - len(todo), unit="image") as bar:
        for record, boxes, logits in search(todo) if todo else ():
            keep = select_boxes(boxes, min_size, max_proposals)
            save = functools.partial(np.savez, boxes=boxes[keep], logits=logits[keep])
            write_atomically(files[str(record["image_id"])], save)
            bar.update()
    found = [dict(np.load(file)) for file in files.values()]
    _write(output, records, [x["boxes"] for x in found], [x["logits"] for x in found])
    shutil.rmtree(parts)


def _compare(file: Path, head: dict[str, Any]) -> None:
    """Raises ValueError if an earlier run had other settings."""
    if not file.exists():
        write_atomically(file, json.dumps(head))
        return
    earlier, different = json.loads(file.read_text()), []
    for key, value in head.items():
        if earlier.get(key) != value:
            values = f"{earlier.get(key)!r}, now {value!r}"
            is_short = len(values) < 200 and key != "list of images"
            different.append(f"{key} {values}" if is_short else f"another {key}")
    if different:
        raise ValueError(
            f"{file.parent}: the earlier run had {'; '.join(different)}. Go on with its settings, "
            "or remove the folder"
        )


def _write(output: Path, records: Sequence[dict], boxes: Sequence, logits: Sequence) -> None:
    write_proposal_file(output, [r["image_id"] for r in records], boxes, logits)
    print(f"{output}: {sum(map(len, boxes))} proposals for {len(boxes)} images")


def _refuse_to_overwrite(output: Path) -> None:
    if output.exists():
        raise ValueError(f"{output} exists; remove it to make it anew")


def load_records(name: str, difficult: bool = True) -> list[dict]:
    """
    Of a data set that Detectron2 or ``ohem_paper.voc`` knows, coco:ANNOTATIONS.json:IMAGE_FOLDER or
    voc:FOLDER:SPLIT, with or without the difficult objects of VOC data. Raises ValueError or
    FileNotFoundError if there is no such data set, or nothing in it.
    """
    register_datasets([name])
    if name not in DatasetCatalog.list():
        raise ValueError(
            f"{name} is no data set that Detectron2 or ohem_paper.voc knows, nor of the form "
            "coco:ANNOTATIONS.json:IMAGE_FOLDER or voc:FOLDER:SPLIT"
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
