#!/usr/bin/env bash
# datumaro 1.13.12: CVAT's XML with a rotated box and an ellipse, to COCO and Pascal VOC.
# Expected: the upright box around each, or a warning.
# Seen: both are left out, without a word. The image stays. If it held nothing else it becomes an
# image without objects.
# Hurts: the objects are there in the picture and taught as background.
# Do: count objects per class before and after, and draw these as upright boxes or polygons.
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
import glob, json, os, sys
import datumaro
from PIL import Image

os.makedirs("cvat/images")
for name in "ab":
    Image.new("RGB", (200, 100)).save(f"cvat/images/{name}.png")
box = ('<box label="ship" occluded="0" xtl="{0}.00" ytl="40.00" xbr="{1}.00" ybr="60.00" '
       'z_order="0"{2}></box>')
ellipse = ('<ellipse label="ship" occluded="0" cx="150.00" cy="50.00" rx="20.00" ry="10.00" '
           'z_order="0"></ellipse>')
with open("cvat/annotations.xml", "w") as file:
    file.write('<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version><meta>'
               "<task><id>1</id><labels><label><name>ship</name><attributes></attributes></label>"
               "</labels></task></meta>"
               '<image id="0" name="a.png" width="200" height="100">' + box.format(10, 50, "") +
               '</image><image id="1" name="b.png" width="200" height="100">' +
               box.format(40, 80, ' rotation="30.00"') + ellipse + "</image></annotations>")
dataset = datumaro.Dataset.import_from("cvat", "cvat")
print("read:", [(item.id, [type(a).__name__ for a in item.annotations]) for item in dataset])
for form in "coco_instances", "voc_detection":
    dataset.export(form, form)

coco = json.load(open("coco_instances/annotations/instances_annotations.json"))
print("COCO:", [(image["file_name"], [a["bbox"] for a in coco["annotations"]
                                      if a["image_id"] == image["id"]])
                for image in coco["images"]])
voc = {name: open(name).read().count("<object>")
       for name in glob.glob("voc_detection/Annotations/*.xml")}
print("VOC objects:", voc)
print("VOC list:", open(glob.glob("voc_detection/ImageSets/Main/*.txt")[0]).read().split())
if len(coco["images"]) != 2 or [a["image_id"] for a in coco["annotations"]] != [1]:
    sys.exit("changed: COCO holds other objects")
if voc != {"voc_detection/Annotations/a.xml": 1}:
    sys.exit("changed: VOC holds other objects")
PY
