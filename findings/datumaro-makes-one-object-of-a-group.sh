#!/usr/bin/env bash
# datumaro 1.13.12: CVAT's XML with objects that were put into a group, to COCO.
# Expected: a group says what belongs together (a rider and a bicycle); its objects stay objects.
# Seen: all boxes and polygons of a group become one annotation. It has the class of the largest
# and one box around all. In Pascal VOC the boxes stay apart.
# Hurts: the others are lost, and the box lies mostly on background. COCO "instances" is the format
# for detectors, and nothing warns.
# Do: take the groups out before the export (group_id="0" in the XML), unless they are parts of
# one object.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
python3 -m venv env
env/bin/pip install --quiet --no-deps datumaro==1.13.12 attrs==26.1.0 defusedxml==0.7.1 \
    imagesize==2.0.1 json-stream==2.5.1 json-stream-rs-tokenizer==0.5.4 lxml==6.1.3 numpy==2.4.6 \
    opencv-python-headless==4.14.0.94 orjson==3.13.0 pandas==2.3.3 pillow==12.3.0 \
    pycocotools==2.0.11 python-dateutil==2.9.0.post0 six==1.17.0 PyYAML==6.0.4 shapely==2.2.0 \
    tqdm==4.70.1 typing_extensions==4.16.0
env/bin/python - <<'PY'
import json, os, sys
import datumaro
from PIL import Image

os.makedirs("cvat/images")
Image.new("RGB", (200, 100)).save("cvat/images/a.png")


def export(group, folder):
    boxes = "".join(
        f'<box label="{label}" occluded="0" xtl="{x}.00" ytl="{y}.00" xbr="{x + w}.00" '
        f'ybr="{y + h}.00" z_order="0" group_id="{group}"></box>'
        for label, x, y, w, h in (("rider", 10, 10, 20, 40), ("bicycle", 10, 40, 40, 40),
                                  ("rider", 150, 10, 20, 40)))
    with open("cvat/annotations.xml", "w") as file:
        file.write('<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version>'
                   "<meta><task><id>1</id><labels><label><name>rider</name><attributes>"
                   "</attributes></label><label><name>bicycle</name><attributes></attributes>"
                   "</label></labels></task></meta><image id=\"0\" name=\"a.png\" width=\"200\" "
                   f'height="100">{boxes}</image></annotations>')
    datumaro.Dataset.import_from("cvat", "cvat").export(folder, "coco_instances")
    coco = json.load(open(f"{folder}/annotations/instances_annotations.json"))
    names = {category["id"]: category["name"] for category in coco["categories"]}
    return [(names[a["category_id"]], a["bbox"], a["area"]) for a in coco["annotations"]]


apart, together = export(0, "apart"), export(1, "together")
print("no group:", *apart, sep="\n  ")
print("one group:", *together, sep="\n  ")
if len(apart) != 3:
    sys.exit("changed: without a group there are no longer three objects")
if together != [("bicycle", [10, 10, 160, 70], 11200)]:
    sys.exit("changed: a group is no longer one object")
PY
