"""The smallest data and model of a training through train_net.py: marks on two pictures."""

import json

import numpy as np
from models import ROOT
from PIL import Image

CONFIG = f"""
_BASE_: "{ROOT}/configs/quick_schedules/faster_rcnn_R_50_FPN_cpu.yaml"
MODEL:
  RESNETS: {{DEPTH: 50, STEM_OUT_CHANNELS: 8, RES2_OUT_CHANNELS: 16, WIDTH_PER_GROUP: 4}}
  FPN: {{OUT_CHANNELS: 8}}
  RPN: {{PRE_NMS_TOPK_TRAIN: 50, POST_NMS_TOPK_TRAIN: 20, POST_NMS_TOPK_TEST: 10}}
  ROI_BOX_HEAD: {{FC_DIM: 8, POOLER_RESOLUTION: 3}}
  ROI_HEADS: {{BATCH_SIZE_PER_IMAGE: 8, OHEM: {{WARMUP_ITERS: 0}}}}
INPUT: {{MIN_SIZE_TRAIN: [48], MIN_SIZE_TEST: 48}}
SOLVER: {{IMS_PER_BATCH: 1, MAX_ITER: 2, STEPS: [], WARMUP_ITERS: 0}}
OUTPUT_DIR: "out"
"""


def marks(folder):
    """``one.json`` and ``two.json``, which have one class and two, of the same ``images``."""
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for i, name in enumerate(("a.png", "b.png"), start=1):
        picture = np.full((48, 64, 3), 90, np.uint8)
        picture[10:30, 10:40] = (200, 30, 40 * i)
        Image.fromarray(picture).save(folder / "images" / name)
        images.append({"id": i, "file_name": name, "width": 64, "height": 48})
        box = {"bbox": [10, 10, 30, 20], "area": 600, "iscrowd": 0}
        annotations.append({"id": i, "image_id": i, "category_id": i, **box})
    both = [{"id": 1, "name": "red"}, {"id": 2, "name": "pink"}]
    for name, categories in (("one", both[:1]), ("two", both)):
        kept = [a for a in annotations if a["category_id"] <= len(categories)]
        data = {"images": images, "annotations": kept, "categories": categories}
        (folder / f"{name}.json").write_text(json.dumps(data))
