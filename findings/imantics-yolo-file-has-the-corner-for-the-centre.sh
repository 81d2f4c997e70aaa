#!/usr/bin/env bash
# imantics 0.1.12, Annotation.yolo().
# Expected: class, centre x, centre y, width and height in parts of the image: the YOLO format.
# Seen: the first two numbers are the left top corner. Read as the centre, they put every box half
# its size too far to the left and up, and partly out of the image at the border.
# Hurts: the IoU with the object is 1/7 for every box, so that no detection counts at 0.5.
# Do: add half of width and height to the first two numbers. The COCO export has the box right.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/env"
"$tmp/env/bin/pip" install --quiet --no-deps imantics==0.1.12 numpy==1.26.4 lxml==5.3.0 \
    xmljson==0.2.1 opencv-python-headless==4.10.0.84
"$tmp/env/bin/python" - <<'PY'
import sys
import numpy as np
from imantics import Annotation, BBox, Category, Image

image = Image(np.zeros((80, 100, 3), np.uint8), path="a.png", id=1)
# Left 10, top 20, 40 wide and 20 high: the centre is (30, 30).
box = BBox((10, 20, 40, 20), style=BBox.WIDTH_HEIGHT)
image.add(Annotation.from_bbox(box, category=Category("cat")))
annotation = next(iter(image.annotations.values()))
label, x, y, width, height = annotation.yolo(as_string=False)
print("COCO box", annotation.coco(include=False)["bbox"])
print("YOLO", annotation.yolo(), "; the centre would be", 30 / 100, 30 / 80)
if (x, y, width, height) != (10 / 100, 20 / 80, 40 / 100, 20 / 80):
    sys.exit("changed: the first two numbers are no longer the corner")
PY
