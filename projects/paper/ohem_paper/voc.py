"""
Pascal VOC without its difficult objects, which the releases of Fast R-CNN and OHEM do not train on.
Detectron2's loader keeps them and does not tell which they are.

Importing this module registers Detectron2's VOC data sets a second time, as
voc_2007_trainval_no_difficult and so on, for training. VOC evaluation reads annotations itself.
"""

from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog

from ohem_d2.tools.data.voc import read_voc

SPLITS = {2007: ("trainval", "train", "val", "test"), 2012: ("trainval", "train", "val")}


def register_without_difficult(name: str) -> None:
    """Register a VOC data set again, as NAME_no_difficult; it is read when it is asked for."""
    of_all = {k: v for k, v in MetadataCatalog.get(name).as_dict().items() if k != "name"}

    def load() -> list[dict]:
        out = []
        for record in DatasetCatalog.get(name):
            file = Path(of_all["dirname"]) / "Annotations" / f"{record['image_id']}.xml"
            # Detectron2 has one annotation for each object, in their order.
            pairs = zip(record["annotations"], read_voc(file).objects, strict=True)
            out.append({**record, "annotations": [a for a, o in pairs if not o.difficult]})
        return out

    DatasetCatalog.register(f"{name}_no_difficult", load)
    MetadataCatalog.get(f"{name}_no_difficult").set(**of_all)


for year, splits in SPLITS.items():
    for split in splits:
        register_without_difficult(f"voc_{year}_{split}")
