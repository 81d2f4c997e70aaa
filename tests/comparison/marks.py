"""Photographs that take no time: bright rectangles on grey, in COCO format."""

import json

import cv2
import numpy as np

CLASSES = ["narrow", "wide"]


def write_data(folder, num, classes=CLASSES, side=64):
    """So many images, each with an object of each class, as ``--train-data`` takes them."""
    random = np.random.default_rng(num)
    images, annotations = [], []
    (folder / "images").mkdir(parents=True)
    for i in range(1, num + 1):
        picture = random.integers(90, 120, (side, side, 3), dtype=np.uint8)
        for c, (width, height) in enumerate(((10, 20), (28, 14))[: len(classes)], start=1):
            x, y = 4 + random.integers(0, 20), 4 + 28 * (c - 1)
            picture[y : y + height, x : x + width] = 250
            ids = {"id": len(annotations) + 1, "image_id": i, "category_id": c, "iscrowd": 0}
            box = [float(x), float(y), float(width), float(height)]
            annotations.append({**ids, "bbox": box, "area": float(width * height)})
        name = f"{i}.png"
        cv2.imwrite(str(folder / "images" / name), picture)
        images.append({"id": i, "file_name": name, "width": side, "height": side})
    categories = [{"id": c, "name": name} for c, name in enumerate(classes, start=1)]
    coco = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "objects.json").write_text(json.dumps(coco))
    return f"coco:{folder / 'objects.json'}:{folder / 'images'}"
