"""Data, a configuration and weights that are all right, and ways to spoil them."""

import json
import math
import os
import pickle
import struct
import zlib

import numpy as np
import torch
from detectron2.modeling import build_model
from models import ROOT
from photographs import voc_xml
from PIL import Image

from ohem_d2.tools.load_model import default_cfg

NAN, INF = math.nan, math.inf
CONFIG = f"""
_BASE_: "{ROOT}/configs/quick_schedules/faster_rcnn_R_50_FPN_cpu.yaml"
MODEL:
  RESNETS: {{DEPTH: 50, STEM_OUT_CHANNELS: 8, RES2_OUT_CHANNELS: 16, WIDTH_PER_GROUP: 4}}
  FPN: {{OUT_CHANNELS: 8}}
  RPN: {{PRE_NMS_TOPK_TRAIN: 50, POST_NMS_TOPK_TRAIN: 20, POST_NMS_TOPK_TEST: 10}}
  ROI_BOX_HEAD: {{FC_DIM: 8, POOLER_RESOLUTION: 3}}
  ROI_HEADS: {{NUM_CLASSES: 1, BATCH_SIZE_PER_IMAGE: 8, OHEM: {{WARMUP_ITERS: 0}}}}
INPUT: {{MIN_SIZE_TRAIN: [48], MIN_SIZE_TEST: 48}}
SEED: 1
SOLVER: {{IMS_PER_BATCH: 1, MAX_ITER: 3, STEPS: [], WARMUP_ITERS: 0}}
OUTPUT_DIR: "out"
"""


def make(folder):
    """Three images of one object each, in both formats."""
    for name in ("images", "voc/Annotations", "voc/JPEGImages", "voc/ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    images, annotations = [], []
    for i, name in enumerate("abc"):
        picture = np.full((48, 64, 3), 90, np.uint8)
        picture[10:30, 10:40] = (200, 30, 40 * i)
        for path in (f"images/{name}.jpg", f"voc/JPEGImages/{name}.jpg"):
            Image.fromarray(picture).save(folder / path)
        images.append({"id": i + 1, "file_name": f"{name}.jpg", "width": 64, "height": 48})
        annotations.append(
            {"id": i + 1, "image_id": i + 1, "category_id": 1, "bbox": [10, 10, 30, 20]}
            | {"area": 600, "iscrowd": 0}
        )
        xml = voc_xml(64, 48, [("cat", 11, 11, 40, 30)])
        (folder / f"voc/Annotations/{name}.xml").write_text(xml)
    data = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
    for split in ("train", "test"):
        (folder / f"{split}.json").write_text(json.dumps(data))
        (folder / f"voc/ImageSets/Main/{split}.txt").write_text("a\nb\nc\n")
    (folder / "c.yaml").write_text(CONFIG)
    sets = (f'{split.upper()}: ["coco:{split}.json:images"]' for split in ("train", "test"))
    (folder / "d.yaml").write_text(f"_BASE_: c.yaml\nDATASETS: {{{', '.join(sets)}}}\n")


# ---- ways to spoil, which are given the folder ---------------------------------------------------


def nothing(folder):
    pass


def each(*spoils):
    return lambda folder: [spoil(folder) for spoil in spoils]


def write(path, content):
    """A file of that text, bytes, or what PyTorch or a picture makes of other things."""

    def spoil(folder):
        file = folder / path
        file.parent.mkdir(exist_ok=True)
        if isinstance(content, np.ndarray):
            Image.fromarray(content).save(file)
        elif isinstance(content, (str, bytes)):
            file.write_bytes(content.encode() if isinstance(content, str) else content)
        else:
            torch.save(content, file)

    return spoil


def replace(path, old, new):
    def spoil(folder):
        text = (folder / path).read_text()
        assert old in text
        (folder / path).write_text(text.replace(old, new))

    return spoil


def cut(path, size):
    """Only the first bytes are left."""
    return lambda folder: os.truncate(folder / path, size)


def torn_png(path):
    return each(write(path, noise(48, 64)), cut(path, 900))


def torn_two(folder):
    for name in "ab":
        os.truncate(folder / f"images/{name}.jpg", 500)


def move(path, to):
    return lambda folder: (folder / path).rename(folder / to)


def remove(path):
    return lambda folder: (folder / path).unlink(missing_ok=True)


def folder_at(path):
    return each(remove(path), lambda folder: (folder / path).mkdir())


def link_at(path, target):
    return each(remove(path), lambda folder: (folder / path).symlink_to(target))


def pipe_at(path):
    """Whoever reads it waits for ever."""
    return each(remove(path), lambda folder: os.mkfifo(folder / path))


def noise(height, width):
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)


def bomb(path):
    """A PNG that claims to be of 20,000 x 20,000 pixels."""
    size = struct.pack(">IIBBBBB", 20000, 20000, 8, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", size), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")):
        check = struct.pack(">I", zlib.crc32(kind + data))
        content += struct.pack(">I", len(data)) + kind + data + check
    return write(path, content)


def trained(config):
    """The weights of a model as of this configuration, so w.pth, as it is before a training."""

    def spoil(folder):
        cfg = default_cfg()
        cfg.merge_from_file(str(folder / config))
        torch.save({"model": build_model(cfg).state_dict()}, folder / "w.pth")

    return spoil


def edit(change):
    """Of train.json; ``change`` alters its content."""

    def spoil(folder):
        content = json.loads((folder / "train.json").read_text())
        change(content)
        (folder / "train.json").write_text(json.dumps(content))

    return spoil


def of_test(spoil):
    """What is done to train.json is done to test.json instead."""

    def spoil_test(folder):
        good = (folder / "train.json").read_text()  # They are the same.
        spoil(folder)
        (folder / "train.json").rename(folder / "test.json")
        (folder / "train.json").write_text(good)

    return spoil_test


def _update(row, values):
    """Values of None: the key is removed."""
    row.update(values)
    for key in [key for key, value in values.items() if value is None]:
        del row[key]


def data(**values):
    return edit(lambda content: _update(content, values))


def annotation(**values):
    """The second one, and the second image below, has these values."""
    return edit(lambda content: _update(content["annotations"][1], values))


def image(**values):
    return edit(lambda content: _update(content["images"][1], values))


def category(**values):
    return edit(lambda content: _update(content["categories"][0], values))


def all_annotations(**values):
    return edit(lambda content: [_update(a, values) for a in content["annotations"]])


def box(*numbers):
    return annotation(bbox=list(numbers))


def all_boxes(*numbers):
    return all_annotations(bbox=list(numbers))


def twice(part):
    return edit(lambda content: content[part].append(content[part][0]))


def one_more(**values):
    """An annotation of the second image, which has another one."""
    return edit(lambda c: c["annotations"].append({**c["annotations"][1], "id": 9, **values}))


def many_images(num):
    """Without files."""
    images = [
        {"id": 10 + i, "file_name": f"{i}.jpg", "width": 64, "height": 48} for i in range(num)
    ]
    return edit(lambda content: content["images"].extend(images))


def xmin(text):
    """In Pascal VOC format."""
    return replace("voc/Annotations/b.xml", ">11</xmin", f">{text}</xmin")


def all_turned_round(folder):
    """xmax is below xmin."""
    for name in "abc":
        replace(f"voc/Annotations/{name}.xml", ">11</xmin", ">60</xmin")(folder)


def named(name, spoil, **values):
    """A file, made or spoilt, that is the second image."""
    return each(spoil, image(file_name=name, **values))


def proposals(**values):
    """For all three images; values replace those of Detectron2's keys."""
    boxes, logits = [np.float32([[0, 0, 9, 9]])] * 3, [np.float32([0])] * 3
    content = {"ids": [1, 2, 3], "boxes": boxes, "objectness_logits": logits, "bbox_mode": 0}
    return write("p.pkl", pickle.dumps({**content, **values}))


DATA_SET = """
from detectron2.data.datasets import register_coco_instances
register_coco_instances("mine", {}, "train.json", "images")
"""


def registered(spoil):
    """In a module, as "mine"."""
    return each(write("my_data.py", DATA_SET), spoil)


RECORDS = """
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

def records():
    records = load_coco_json("test.json", "images")
    for record in records:
        {change}
        for annotation in record["annotations"]:
            annotation["category_id"] = 0
    return records

DatasetCatalog.register("mine", records)
MetadataCatalog.get("mine").set(**{metadata})
"""


def by_code(metadata, change="pass"):
    """test.json as "mine", a function of a module, whose metadata do not name the file."""
    return write("my_data.py", RECORDS.format(metadata=metadata, change=change))


def metrics(*lines):
    return write("run/metrics.json", "\n".join(lines))


def rows(loss, cut):
    """Of metrics.json."""
    return (f'{{"iteration": {i}, "total_loss": {loss}, "ohem/cut": {cut}}}' for i in (19, 39))
