"""
Pascal VOC without its difficult objects, which the releases of Fast R-CNN and OHEM do not train on.
Detectron2's loader keeps them and does not tell which they are.

Importing this module registers Detectron2's VOC data sets a second time, as
voc_2007_trainval_no_difficult and so on, for training. VOC evaluation leaves difficult objects out
whatever the data set; it reads the annotations itself.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_voc_instances
from detectron2.data.datasets.pascal_voc import CLASS_NAMES

from ohem_d2.data.voc import read_voc

SPLITS = {2007: ("trainval", "train", "val", "test"), 2012: ("trainval", "train", "val")}


def register_voc_without_difficult(
    name: str, folder: str, split: str, year: int, class_names: Sequence[str] = CLASS_NAMES
) -> None:
    """As Detectron2's register_pascal_voc; the folder is only read when the data are asked for."""

    def load() -> list[dict]:
        return without_difficult(load_voc_instances(folder, split, class_names), folder)

    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(
        thing_classes=list(class_names),
        dirname=folder,
        year=year,
        split=split,
        evaluator_type="pascal_voc",
        without_difficult=True,
    )


def without_difficult(records: Sequence[dict], folder: str) -> list[dict]:
    """
    Copies of records, which Detectron2's loader read from a folder, that lack the annotations of
    difficult objects. An image may be left without any.
    """
    out = []
    for record in records:
        objects = read_voc(Path(folder) / "Annotations" / f"{record['image_id']}.xml")
        # Detectron2 has one annotation for each object, in their order.
        pairs = zip(record["annotations"], objects, strict=True)
        out.append({**record, "annotations": [a for a, o in pairs if not o.difficult]})
    return out


# The same root as that of Detectron2's own
ROOT = os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))
for year, splits in SPLITS.items():
    for split in splits:
        name, folder = f"voc_{year}_{split}_no_difficult", os.path.join(ROOT, f"VOC{year}")
        register_voc_without_difficult(name, folder, split, year)
