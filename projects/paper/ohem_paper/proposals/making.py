"""Proposal files for a data set, by selective search or from MATLAB's files."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog
from tqdm import tqdm

from ohem_d2.tools.data.datasets import must_be_registered, register_datasets
from ohem_d2.tools.errors import InputError, input_errors
from ohem_d2.tools.files import write_atomically
from ohem_d2.tools.runs import fingerprint

from .. import voc  # noqa: F401  registers VOC without difficult objects
from .files import read_mat, select_boxes, write_proposal_file
from .selective_search import search_data_set


def by_selective_search(
    data: str,
    output: Path,
    *,
    mode: str = "fast",
    width: int | None = None,
    seed: int = 0,
    workers: int | None = None,
    min_size: float = 2,
    max_proposals: int = 2000,
) -> None:
    """
    Write proposals for a data set (see :func:`load_records`) to a file that must not exist yet. The
    same call again continues a search that was killed. For mode, width and seed see
    :func:`.selective_search.search_image`, for the limits :func:`.files.select_boxes`. ``workers``
    are by default as many as there are cores. InputError says what is wrong and what to do.
    """
    _refuse_to_overwrite(output)
    records, how = load_records(data), {"mode": mode, "width": width, "seed": seed}
    ids = (str(r["image_id"]) for r in records)
    settings = fingerprint(data, str((how, min_size, max_proposals)), *ids)
    # What is found in an image has a file of its own, so that a search that is killed can go on.
    parts = output.with_name(f"{output.name}.{settings}.parts")
    parts.mkdir(parents=True, exist_ok=True)
    files = {str(r["image_id"]): parts / f"{i}.npy" for i, r in enumerate(records)}
    todo = [r for r in records if not files[str(r["image_id"])].exists()]
    try:
        found = search_data_set(todo, **how, workers=workers or os.cpu_count()) if todo else ()
        bar = {"total": len(records), "initial": len(records) - len(todo), "unit": "image"}
        for record, boxes in tqdm(found, **bar):
            keep = boxes[select_boxes(boxes, min_size, max_proposals)]
            write_atomically(files[str(record["image_id"])], lambda file, b=keep: np.save(file, b))
    except (ImportError, RuntimeError, ValueError) as e:  # the search does not import InputError
        raise InputError(str(e)) from e
    _write(output, records, [np.load(file) for file in files.values()])
    shutil.rmtree(parts)


def from_mat(data: str, mat: Path, output: Path, min_size: float, max_proposals: int) -> None:
    """The same from a MATLAB file, see :func:`.files.read_mat`."""
    _refuse_to_overwrite(output)
    records = load_records(data)
    boxes = read_mat(mat, records)
    _write(output, records, [b[select_boxes(b, min_size, max_proposals)] for b in boxes])


def _write(output: Path, records: Sequence[dict], boxes: Sequence[np.ndarray]) -> None:
    write_proposal_file(output, [r["image_id"] for r in records], boxes)
    print(f"{output}: {sum(map(len, boxes))} proposals for {len(boxes)} images")


def _refuse_to_overwrite(output: Path) -> None:
    if output.exists():
        raise InputError(f"{output} exists; remove it to make it anew")


def load_records(name: str) -> list[dict]:
    """
    The images of a data set that Detectron2 or ``voc.py`` knows, coco:ANNOTATIONS.json:IMAGE_FOLDER
    or voc:FOLDER:SPLIT. Raises InputError if there is no such data set, or nothing in it.
    """
    register_datasets([name])
    must_be_registered(name)
    with input_errors(name):
        records = DatasetCatalog.get(name)
    if not records:
        raise InputError(f"{name} has no images")
    return records
