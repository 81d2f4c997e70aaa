#!/usr/bin/env bash
# globox 2.9.0, COCOEvaluator on a ground truth that AnnotationSet.from_coco read.
# Expected: as in COCO's evaluation, a detection within a crowd (iscrowd 1) is neither right nor
# wrong.
# Seen: the crowd is one more object, and a detection of someone in it is a false positive: AP is
# 0.25 where pycocotools says 1.
# Hurts: whoever compares its numbers with those of Detectron2 or of papers on COCO.
# Do: use it only where no annotation has iscrowd 1.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/env"
"$tmp/env/bin/pip" install --quiet --no-deps globox==2.9.0 pycocotools==2.0.8 numpy==1.26.4 \
    tqdm==4.66.5 rich==13.9.2 markdown-it-py==3.0.0 mdurl==0.1.2 pygments==2.18.0
"$tmp/env/bin/python" - "$tmp" <<'PY'
import contextlib, io, json, sys
from globox import AnnotationSet, COCOEvaluator
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

truth, results = sys.argv[1] + "/truth.json", sys.argv[1] + "/results.json"
one = {"image_id": 1, "category_id": 1}
json.dump({
    "info": {}, "images": [{"id": 1, "file_name": "a.jpg", "width": 200, "height": 200}],
    "categories": [{"id": 1, "name": "person", "supercategory": ""}],
    "annotations": [
        {"id": 1, "bbox": [10, 10, 32, 32], "area": 1024, "iscrowd": 0, **one},
        {"id": 2, "bbox": [60, 60, 100, 100], "area": 8000, "iscrowd": 1, **one}],
}, open(truth, "w"))
json.dump([{"bbox": [10, 10, 32, 32], "score": 0.9, **one},
           {"bbox": [80, 80, 20, 20], "score": 0.95, **one}], open(results, "w"))
globox = COCOEvaluator(
    ground_truths=AnnotationSet.from_coco(truth),
    predictions=AnnotationSet.from_coco_results(
        results, id_to_label={1: "person"}, id_to_imageid={1: "a.jpg"})).ap()
with contextlib.redirect_stdout(io.StringIO()):
    coco = COCO(truth)
    evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
    evaluation.evaluate(), evaluation.accumulate(), evaluation.summarize()
print(f"AP: globox {globox:.2f}, pycocotools {evaluation.stats[0]:.2f}")
if round(float(globox), 2) != 0.25 or round(evaluation.stats[0], 2) != 1:
    sys.exit("changed: globox no longer counts the crowd as an object, or pycocotools differs")
PY
