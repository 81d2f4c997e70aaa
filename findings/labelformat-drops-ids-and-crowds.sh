#!/usr/bin/env bash
# labelformat 0.1.17, "labelformat convert" from COCO to COCO, as a step of renaming or merging has.
# Expected: ids, areas and iscrowd of the annotations are still there.
# Seen: each has image_id, category_id and bbox only. pycocotools 2.0.11 raises KeyError: 'id'; and a
# crowd is by now an object like any other.
# Hurts: Detectron2 cannot read the file. Who numbers the annotations trains on boxes of crowds.
# Do: take crowds out before. ids and areas: ohem_d2's tools add them in memory, and say so.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/env"
"$tmp/env/bin/pip" install --quiet --no-deps labelformat==0.1.17 fsspec==2026.9.0 numpy==2.2.6 \
    pillow==12.3.0 pydantic==2.14.4 pydantic-core==2.50.5 pydantic-xml==2.22.0 PyYAML==6.0.4 \
    tqdm==4.70.1 annotated-types==0.8.0 typing-extensions==4.16.0 typing-inspection==0.4.5 \
    pycocotools==2.0.11
cat >"$tmp/in.json" <<'JSON'
{"images": [{"id": 5, "file_name": "a.jpg", "width": 64, "height": 48}],
 "categories": [{"id": 3, "name": "sheep"}],
 "annotations": [
  {"id": 7, "image_id": 5, "category_id": 3, "bbox": [10, 10, 20, 10], "area": 180, "iscrowd": 0},
  {"id": 8, "image_id": 5, "category_id": 3, "bbox": [0, 30, 60, 18], "area": 1080, "iscrowd": 1}]}
JSON
"$tmp/env/bin/labelformat" convert --task object-detection --input-format coco \
    --input-file "$tmp/in.json" --output-format coco --output-file "$tmp/out.json" >/dev/null
"$tmp/env/bin/python" -W ignore - "$tmp/out.json" <<'PY'
import json
import sys
from pycocotools.coco import COCO

annotations = json.load(open(sys.argv[1]))["annotations"]
fields = sorted(set().union(*annotations))
print(len(annotations), "annotations with", ", ".join(fields))
try:
    COCO(sys.argv[1])
    raised = None
except KeyError as e:
    raised = e
print("pycocotools:", repr(raised))
if fields != ["bbox", "category_id", "image_id"] or repr(raised) != "KeyError('id')":
    sys.exit("changed: annotations keep more than their box")
PY
