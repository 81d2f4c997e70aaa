#!/usr/bin/env bash
# datumaro 1.13.12: CVAT's XML of a video, to COCO and Pascal VOC.
# Expected: a frame that is marked outside="1" has no object; CVAT writes it to end a track.
# Seen: it becomes an ordinary object where the thing was last. Only "attributes" says "outside".
# Hurts: each track ends with a box on background: one false object per track and pause.
# Do: take out annotations with "attributes": {"outside": true} in COCO, or the XML's boxes with
# outside="1" before.
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
import json, os, re, sys
import datumaro
from PIL import Image

os.makedirs("cvat/images")
boxes = ""
for frame, (left, outside) in enumerate([(150, 0), (170, 0), (180, 1)]):
    Image.new("RGB", (200, 100)).save(f"cvat/images/frame_{frame:06}.png")
    boxes += (f'<box frame="{frame}" keyframe="1" outside="{outside}" occluded="0" '
              f'xtl="{left}.00" ytl="10.00" xbr="{left + 20}.00" ybr="30.00" z_order="0"></box>')
with open("cvat/annotations.xml", "w") as file:
    file.write('<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version><meta>'
               "<task><id>1</id><mode>interpolation</mode><labels><label><name>car</name>"
               "<attributes></attributes></label></labels><original_size><width>200</width>"
               "<height>100</height></original_size></task></meta>"
               f'<track id="0" label="car" source="manual">{boxes}</track></annotations>')
dataset = datumaro.Dataset.import_from("cvat", "cvat")
for form in "coco_instances", "voc_detection":
    dataset.export(form, form)

coco = json.load(open("coco_instances/annotations/instances_annotations.json"))
for a in coco["annotations"]:
    print("COCO image", a["image_id"], "bbox", a["bbox"], "attributes", a["attributes"])
text = open("voc_detection/Annotations/frame_000002.xml").read()
print("VOC, last frame:", re.findall("<xmin>.*</xmin>", text))
last = coco["annotations"][-1]
if len(coco["annotations"]) != 3 or not last["attributes"]["outside"] or last["iscrowd"]:
    sys.exit("changed: COCO has no object in the last frame")
if text.count("<object>") != 1:
    sys.exit("changed: VOC has no object in the last frame")
PY
