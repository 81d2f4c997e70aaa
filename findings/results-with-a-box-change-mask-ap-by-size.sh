#!/usr/bin/env bash
# pycocotools 2.0.8 on results that have a box beside each mask, as Detectron2's own
# coco_instances_results.json has. faster-coco-eval 1.8.0 and hotcoco 1.3.0 do the same.
# Expected: mask AP of small, medium and large objects goes by the area of the predicted mask.
# Seen: it goes by the area of the box. A thin false alarm is "large": AP small is 1 in place of
# 0.5.
# Hurts: whoever evaluates the file by hand. Detectron2 takes the boxes out before, so that its log
# says otherwise; AP over all sizes is the same.
# Do: delete "bbox" from every result before a mask evaluation.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/env"
"$tmp/env/bin/pip" install --quiet --no-deps pycocotools==2.0.8 numpy==1.26.4
"$tmp/env/bin/python" - <<'PY'
import contextlib, io, sys
from pycocotools import mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

def strip(x, y):
    """A diagonal strip in a box of 100 x 100 pixels, and its RLE."""
    polygon = [x, y, x + 3, y, x + 100, y + 97, x + 100, y + 100, x + 97, y + 100, x, y + 3]
    return polygon, mask.frPyObjects([polygon], 300, 300)[0]

polygon, rle = strip(10, 10)
area = int(mask.area(rle))
truth = COCO()
truth.dataset = {
    "info": {}, "images": [{"id": 1, "height": 300, "width": 300}],
    "categories": [{"id": 1, "name": "cable"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": area,
                     "bbox": [10, 10, 100, 100], "segmentation": [polygon]}]}
results = [{"image_id": 1, "category_id": 1, "score": 0.5, "bbox": [10, 10, 100, 100],
            "segmentation": rle},
           {"image_id": 1, "category_id": 1, "score": 0.9, "bbox": [150, 150, 100, 100],
            "segmentation": strip(150, 150)[1]}]

def evaluate(results):
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "segm")
        evaluation.evaluate(), evaluation.accumulate(), evaluation.summarize()
    return [round(float(evaluation.stats[i]), 2) for i in (0, 3)]

bare = [{key: value for key, value in result.items() if key != "bbox"} for result in results]
boxed, bare = evaluate(results), evaluate(bare)
print(f"masks of {area} pixels: AP and AP small {boxed} with boxes, {bare} without")
if boxed != [0.5, 1.0] or bare != [0.5, 0.5]:
    sys.exit("changed: a box beside the mask no longer changes AP by size")
PY
