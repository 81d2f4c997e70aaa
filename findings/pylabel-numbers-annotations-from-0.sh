#!/usr/bin/env bash
# pylabel 0.1.55, ImportCoco and ExportToCoco.
# Expected: annotations have the ids of the file that was read, or numbers from 1.
# Seen: they are numbered from 0, as the rows of its table. pycocotools 2.0.11 keeps what a detection
# matched by that number, and takes 0 for nothing: AP 0.25 instead of 1.00, where a detector finds
# both of two objects.
# Hurts: in the evaluation one object counts as missed, and its detection as false. It shows where
# there are few objects of a class.
# Do: add 1 to all ids. ohem_d2's tools number the annotations anew, and say so.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/env"
"$tmp/env/bin/pip" install --quiet --no-deps \
    anywidget==0.11.0 asttokens==3.0.2 bbox_visualizer==1.0.1 cloudpickle==3.1.3 comm==0.2.3 \
    contourpy==1.3.3 cycler==0.12.1 executing==2.3.0 fonttools==4.68.0 ipython==9.18.1 \
    ipython_pygments_lexers==1.1.1 ipywidgets==8.1.9 jedi==0.20.1 joblib==1.6.0 \
    jupyter_bbox_widget==0.7.0 jupyterlab_widgets==3.0.17 kiwisolver==1.5.1 matplotlib==3.11.2 \
    matplotlib-inline==0.2.2 narwhals==2.29.0 numpy==2.4.6 opencv-python==5.0.0.93 \
    packaging==26.4 pandas==3.1.1 parso==0.8.7 pexpect==4.9.0 pillow==13.0.0 \
    prompt_toolkit==3.0.53 psutil==7.2.2 psygnal==0.16.1 ptyprocess==0.7.0 pure_eval==0.2.4 \
    pycocotools==2.0.11 Pygments==2.21.0 pylabel==0.1.55 pyparsing==3.3.3 \
    python-dateutil==4.0.0 PyYAML==6.0.4 scikit-learn==1.9.1 scipy==1.17.1 stack-data==0.6.3 \
    threadpoolctl==3.8.0 tqdm==4.70.1 traitlets==5.16.1 typing_extensions==4.16.0 \
    tzdata==2026.6 wcwidth==0.9.4 widgetsnbextension==4.0.16
cat >"$tmp/in.json" <<'JSON'
{"images": [{"id": 5, "file_name": "a.jpg", "width": 64, "height": 48}],
 "categories": [{"id": 3, "name": "sheep"}],
 "annotations": [
  {"id": 7, "image_id": 5, "category_id": 3, "bbox": [10, 10, 20, 10], "area": 200, "iscrowd": 0},
  {"id": 8, "image_id": 5, "category_id": 3, "bbox": [40, 30, 20, 10], "area": 200, "iscrowd": 0}]}
JSON
"$tmp/env/bin/python" -W ignore - "$tmp" <<'PY' 2>/dev/null
import contextlib
import io
import json
import sys
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from pylabel import importer

before, after = f"{sys.argv[1]}/in.json", f"{sys.argv[1]}/out.json"
importer.ImportCoco(before).export.ExportToCoco(after)
ids = [a["id"] for a in json.load(open(after))["annotations"]]


def ap(file):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(file)
        found = [
            {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"]}
            | {"score": 1 - 0.1 * i}
            for i, a in enumerate(truth.dataset["annotations"])
        ]
        evaluation = COCOeval(truth, truth.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return round(float(evaluation.stats[0]), 2)


print("ids:", *ids, "; AP of a detector that finds all:", ap(before), "before,", ap(after), "after")
if ids != [0, 1] or ap(before) != 1.0 or ap(after) != 0.25:
    sys.exit("changed: annotations are no longer numbered from 0")
PY
