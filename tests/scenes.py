"""Small data sets in which everything is right, in both formats, and what is found in them."""

import copy
import json
import re

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from photographs import voc_xml
from PIL import Image

from ohem_d2.tools.data.coco import coco_faults, coco_records, mended_for_evaluation, read_coco
from ohem_d2.tools.data.contents import Needs, go_over, image_faults
from ohem_d2.tools.data.datasets import register_datasets
from ohem_d2.tools.data.evaluation import evaluation_faults
from ohem_d2.tools.data.rules import TABLE
from ohem_d2.tools.load_model import default_cfg

WIDTH, HEIGHT = 64, 48
CLASSES = ("cat", "dog")
RULES = {name: rule for rules in TABLE.values() for name, rule in rules.items()}
_PATTERNS = {n: re.sub(r"\\{\w+\\}", ".*", re.escape(rule["what"])) for n, rule in RULES.items()}


def rule_of(fault):
    """The name of the rule in the table that says this."""
    (name,) = (name for name, what in _PATTERNS.items() if re.fullmatch(what, fault.what))
    return name


def by_rule(faults):
    names = [rule_of(fault) for fault in faults]
    assert len(names) == len(set(names)), names  # A rule is told once.
    return {name: fault.where for name, fault in zip(names, faults)}


def write_images(folder, names, size=(HEIGHT, WIDTH)):
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / name)


def coco_scene(folder, num=3):
    """
    The content of a file, and its images: two objects in each, of two classes, with all that tools
    write, and one crowd region in the last.
    """
    write_images(folder / "images", [f"{i}.png" for i in range(num)])
    images, annotations = [], []
    for i in range(num):
        image = {"id": i + 1, "file_name": f"{i}.png", "width": WIDTH, "height": HEIGHT}
        images.append({**image, "license": 1})
        for k in range(len(CLASSES)):
            x, y, w, h = 4 + 30 * k, 6 + i, 21, 17
            annotations.append(
                {
                    **{"id": len(annotations) + 1, "image_id": i + 1, "category_id": 3 * k + 1},
                    **{"bbox": [x, y, w, h], "area": w * h, "iscrowd": 0, "num_keypoints": 2},
                    "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
                    "keypoints": [x + 1, y + 1, 2, x + 9, y + 9, 1],
                }
            )
    categories = [
        {"id": 3 * k + 1, "name": name, "keypoints": ["left_a", "right_a"], "skeleton": [[1, 2]]}
        for k, name in enumerate(CLASSES)
    ]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_coco(folder, content, name="labels"):
    (folder / f"{name}.json").write_text(json.dumps(content))
    return f"coco:{folder / name}.json:{folder / 'images'}"


NEEDS = Needs(len(CLASSES))


def coco_found(folder, content, change=None, needs=NEEDS, overrides=()):
    """
    By rule the places that all looks at a test set find, with a configuration for it. Its records
    may be changed before.
    """
    name = write_coco(folder, content)
    _, file, images = name.split(":")
    faults = list(coco_faults(read_coco(file)))
    if not any(fault.stops for fault in faults):
        records = copy.deepcopy(coco_records(read_coco(file), images))
        if change is not None:
            change(records)
        kept, more, _ = go_over(records, needs)
        faults += [*more, *image_faults(records, "BGR")]
        if not any(fault.stops for fault in faults):
            cfg = default_cfg()
            cfg.merge_from_list(["MODEL.MASK_ON", needs.masks, *overrides])
            register_datasets([name])
            faults += evaluation_faults(cfg, name, kept)
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
        else:
            faults += mended_for_evaluation(file, needs.masks, images)[1]
    return by_rule(faults)


def voc_scene(folder, ids=("000001", "000002"), objects=None, images=".jpg"):
    """
    A folder as of VOC 2012, with two objects of two classes in each image; ``objects`` are by image
    those that it shows instead.
    """
    for part in ("Annotations", "ImageSets/Main"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    write_images(folder / "JPEGImages", [f"{i}{images}" for i in ids])
    for i in ids:
        shown = (objects or {}).get(i, [("cat", 5, 7, 25, 23), ("dog", 35, 7, 55, 23)])
        (folder / f"Annotations/{i}.xml").write_text(voc_xml(WIDTH, HEIGHT, shown))
    for split in ("train", "test"):
        (folder / f"ImageSets/Main/{split}.txt").write_text("".join(f"{i}\n" for i in ids))
    return folder
