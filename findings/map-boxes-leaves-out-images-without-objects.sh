#!/usr/bin/env bash
# map-boxes 1.0.6, mean_average_precision_for_boxes with exclude_not_in_annotations off, as it is
# unless set.
# Expected: a detection in an image without objects is a false positive.
# Seen: such an image is left out either way. Ten false alarms with the highest scores change
# nothing; with pycocotools AP50 falls from 1 to 0.09.
# Hurts: whoever puts images without objects into the test to see false alarms. AP is too good.
# Do: evaluate with pycocotools.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/env"
"$tmp/env/bin/pip" install --quiet --no-deps map-boxes==1.0.6 pycocotools==2.0.8 numpy==1.26.4 \
    pandas==2.2.3 pytz==2024.2 tzdata==2024.2 python-dateutil==2.9.0.post0 six==1.17.0
"$tmp/env/bin/python" - <<'PY'
import contextlib, io, sys
import numpy as np
from map_boxes import mean_average_precision_for_boxes
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

# Image 1 has a cat and a detection of it. Images 2 to 11 have no object and one detection each.
objects = np.array([["1", "cat", 10, 50, 10, 50]], dtype=object)
detections = [["1", "cat", 0.5, 10, 50, 10, 50]]
detections += [[str(image), "cat", 0.9, 10, 50, 10, 50] for image in range(2, 12)]
ap, _ = mean_average_precision_for_boxes(
    objects, np.array(detections, dtype=object), exclude_not_in_annotations=False, verbose=False)

truth = COCO()
truth.dataset = {
    "info": {}, "images": [{"id": image} for image in range(1, 12)],
    "categories": [{"id": 1, "name": "cat"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 40, 40],
                     "area": 1600, "iscrowd": 0}]}
with contextlib.redirect_stdout(io.StringIO()):
    truth.createIndex()
    evaluation = COCOeval(truth, truth.loadRes([
        {"image_id": int(d[0]), "category_id": 1, "score": d[2], "bbox": [10, 10, 40, 40]}
        for d in detections]), "bbox")
    evaluation.evaluate(), evaluation.accumulate(), evaluation.summarize()
print(f"AP50: map-boxes {ap:.2f}, pycocotools {evaluation.stats[1]:.2f}")
if round(float(ap), 2) != 1 or round(evaluation.stats[1], 2) != 0.09:
    sys.exit("changed: false alarms in images without objects count now, or pycocotools differs")
PY
