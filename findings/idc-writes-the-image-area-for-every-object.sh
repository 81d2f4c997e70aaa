#!/usr/bin/env bash
# image-dataset-converter 0.1.0, from COCO to COCO (from-coco-od, to-coco-od).
# Expected: "area" is the area of the box or of the mask, as in the file that was read.
# Seen: "area" is width x height of the whole image, the same number for every object.
# Hurts: evaluators tell small, medium and large objects by this number. In images over 96 x 96
# pixels every object counts as large; AP of small and medium objects is -1.
# Do: compute "area" again from the polygons, or from the boxes where there are none.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/env"
# --no-deps: one dependency, for depth images, needs a compiler. Nothing here uses it.
"$tmp/env/bin/pip" install --quiet --no-deps image-dataset-converter==0.1.0 kasperl==0.0.3 \
    seppl==0.3.1 fast-opex==0.0.4 wai-common==0.0.46 wai-logging==0.0.8 imagesize==2.0.1 \
    simple-palette-utils==0.0.4 python-image-complete==0.0.6 defusedxml==0.7.1 croniter==7.0.0 \
    watchdog==7.1.0 python-dotenv==1.2.4 platformdirs==4.14.8 javaproperties==0.8.2 \
    typing-inspect==0.9.0 mypy-extensions==1.2.0 typing-extensions==4.16.0 numpy==1.26.4 \
    pillow==11.0.0 shapely==2.0.6 opencv-python-headless==4.10.0.84 matplotlib==3.11.2 \
    contourpy==1.3.3 cycler==0.12.1 fonttools==4.68.0 kiwisolver==1.5.1 packaging==26.4 \
    pyparsing==3.3.3 python-dateutil==4.0.0 six==1.17.0
"$tmp/env/bin/python" - "$tmp" <<'PY'
import json, pathlib, sys
from PIL import Image

tmp = pathlib.Path(sys.argv[1])
(tmp / "in").mkdir()
Image.new("RGB", (200, 100)).save(tmp / "in/a.png")
json.dump({
    "licenses": [{"id": 1, "name": "any", "url": "any"}],
    "images": [{"id": 1, "file_name": "a.png", "width": 200, "height": 100, "license": 1}],
    "categories": [{"id": 1, "name": "cat", "supercategory": ""}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "bbox": [10, 10, 20, 20],
         "area": 400, "segmentation": []},
        {"id": 2, "image_id": 1, "category_id": 1, "iscrowd": 0, "bbox": [50, 10, 60, 60],
         "area": 1800, "segmentation": [[50, 10, 110, 10, 110, 70]]},
    ],
}, open(tmp / "in/a.json", "w"))
PY
"$tmp/env/bin/idc-convert" from-coco-od -i "$tmp/in/a.json" to-coco-od -o "$tmp/out" 2>"$tmp/log" ||
    { cat "$tmp/log" >&2; exit 1; }
"$tmp/env/bin/python" - "$tmp" <<'PY'
import json, sys

found = json.load(open(sys.argv[1] + "/out/annotations.json"))["annotations"]
for annotation in found:
    print("box", annotation["bbox"], "area", annotation["area"])
if [annotation["area"] for annotation in found] != [200 * 100, 200 * 100]:
    sys.exit("changed: the areas are no longer those of the image")
PY
