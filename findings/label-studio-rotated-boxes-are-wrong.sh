#!/usr/bin/env bash
# label-studio-sdk 2.1.2, its converter: COCO, Pascal VOC and YOLO of a rotated rectangle.
# Expected: the upright box around the rotated rectangle, in all three.
# Seen: COCO turns the rectangle in per cent of the image, not in pixels. Its box is wrong on each
# image that isn't square. VOC and YOLO ignore the angle: their box lies beside the object. Only
# YOLO_OBB is right. label-studio-converter 0.0.59 does the same. globox 2.9.0 and fiftyone 1.22.1
# ignore the angle in CVAT's XML.
# Hurts: a detector of rotated things (goods, ships, text) learns boxes that miss them.
# Do: draw the boxes upright, or export YOLO_OBB and compute the boxes around its corners.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
python3 -m venv env
env/bin/pip install --quiet --no-deps label-studio-sdk==2.1.2 appdirs==1.4.4 \
    certifi==2026.10.19.post1 charset-normalizer==3.5.3 idna==3.20 ijson==3.2.3 lxml==6.1.3 \
    nltk==3.10.4 numpy==2.2.6 pillow==13.0.0 PyJWT==2.13.0 regex==2026.11.19 requests==2.34.2 \
    ujson==6.1.0 urllib3==2.8.0
env/bin/python - <<'PY'
import glob, json, logging, re, sys
from label_studio_sdk.converter.converter import Converter

logging.disable()
W, H = 1000, 500
# 400 x 100 pixels, turned clockwise by 30 degrees about its top left corner (300, 100)
value = {"x": 30, "y": 20, "width": 40, "height": 20, "rotation": 30, "rectanglelabels": ["ship"]}
result = {"from_name": "box", "to_name": "image", "type": "rectanglelabels", "value": value,
          "original_width": W, "original_height": H, "image_rotation": 0}
task = {"id": 1, "data": {"image": "http://example.org/a.jpg"},
        "annotations": [{"id": 1, "completed_by": 1, "result": [result]}]}
json.dump([task], open("tasks.json", "w"))
config = """<View><Image name="image" value="$image"/>
<RectangleLabels name="box" toName="image"><Label value="ship"/></RectangleLabels></View>"""
for form in "COCO", "VOC", "YOLO", "YOLO_OBB":
    Converter(config, project_dir=None, download_resources=False).convert(
        "tasks.json", form, form, is_dir=False)

x, y, w, h = json.load(open("COCO/result.json"))["annotations"][0]["bbox"]
coco = [round(v) for v in (x, y, x + w, y + h)]
xml = open(glob.glob("VOC/Annotations/*.xml")[0]).read()
voc = [int(re.search(f"<{tag}>(.*)</", xml)[1]) for tag in ("xmin", "ymin", "xmax", "ymax")]
_, x, y, w, h = map(float, open(glob.glob("YOLO/labels/*.txt")[0]).read().split())
yolo = [round(v) for v in ((x - w / 2) * W, (y - h / 2) * H, (x + w / 2) * W, (y + h / 2) * H)]
corners = [float(v) for v in open(glob.glob("YOLO_OBB/labels/*.txt")[0]).read().split()[1:]]
xs, ys = [v * W for v in corners[::2]], [v * H for v in corners[1::2]]
around = [round(v) for v in (min(xs), min(ys), max(xs), max(ys))]
for name, box in ("around YOLO_OBB", around), ("COCO", coco), ("VOC", voc), ("YOLO", yolo):
    print(f"{name:16}{box}")
if around != [250, 100, 646, 387] or coco != [200, 100, 646, 287]:
    sys.exit("changed: COCO's box is another one")
if voc != [300, 100, 700, 200] or yolo != voc:
    sys.exit("changed: VOC and YOLO no longer ignore the angle")
PY
