"""Data, a configuration and weights that are all right, and ways to spoil them."""

import json
import os

import numpy as np
import torch
from models import ROOT
from photographs import voc_xml
from PIL import Image

CONFIG = f"""
_BASE_: "{ROOT}/configs/quick_schedules/faster_rcnn_R_50_FPN_cpu.yaml"
MODEL:
  RESNETS: {{DEPTH: 50, STEM_OUT_CHANNELS: 8, RES2_OUT_CHANNELS: 16, WIDTH_PER_GROUP: 4}}
  FPN: {{OUT_CHANNELS: 8}}
  RPN: {{PRE_NMS_TOPK_TRAIN: 50, POST_NMS_TOPK_TRAIN: 20, POST_NMS_TOPK_TEST: 10}}
  ROI_BOX_HEAD: {{FC_DIM: 8, POOLER_RESOLUTION: 3}}
  ROI_HEADS: {{NUM_CLASSES: 1, BATCH_SIZE_PER_IMAGE: 8, OHEM: {{WARMUP_ITERS: 0}}}}
INPUT: {{MIN_SIZE_TRAIN: [48], MIN_SIZE_TEST: 48}}
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


# ---- ways to spoil: each returns a function of the folder -----------------------------------------


def write(path, content):
    """A file of that text, bytes, or what json, torch or a picture makes of other things."""

    def spoil(folder):
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, (str, bytes)):
            file.write_bytes(content.encode() if isinstance(content, str) else content)
        elif file.suffix == ".json":
            file.write_text(json.dumps(content))
        elif file.suffix == ".pth":
            torch.save(content, file)
        else:
            Image.fromarray(content).save(file)

    return spoil


def replace(path, old, new):
    def spoil(folder):
        text = (folder / path).read_text()
        assert old in text
        (folder / path).write_text(text.replace(old, new))

    return spoil


def cut(path, size):
    """Only the first bytes are left."""
    return lambda folder: (folder / path).write_bytes((folder / path).read_bytes()[:size])


def remove(path):
    return lambda folder: (folder / path).unlink()


def folder_at(path):
    def spoil(folder):
        (folder / path).unlink(missing_ok=True)
        (folder / path).mkdir()

    return spoil


def pipe_at(path):
    """Whoever reads it waits for ever."""

    def spoil(folder):
        (folder / path).unlink(missing_ok=True)
        os.mkfifo(folder / path)

    return spoil


def edit(change, *splits):
    """Of the JSON files; ``change`` is given the content and alters it."""

    def spoil(folder):
        for split in splits or ("train",):
            data = json.loads((folder / f"{split}.json").read_text())
            change(data)
            (folder / f"{split}.json").write_text(json.dumps(data))

    return spoil


def annotation(**values):
    """The second one has these values; None: lacks the key."""

    def change(data):
        for key, value in values.items():
            data["annotations"][1][key] = value
            if value is None:
                del data["annotations"][1][key]

    return edit(change)


def image(**values):
    """The same of the second image."""

    def change(data):
        for key, value in values.items():
            data["images"][1][key] = value
            if value is None:
                del data["images"][1][key]

    return edit(change)


def add(part, row, *splits):
    return edit(lambda data: data[part].append(row), *splits)


def each(*spoils):
    return lambda folder: [spoil(folder) for spoil in spoils]
