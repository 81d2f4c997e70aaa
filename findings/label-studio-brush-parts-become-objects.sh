#!/usr/bin/env bash
# label-studio-sdk 2.1.2, its converter: BRUSH_TO_COCO.
# Expected: a brush region is one annotation. A hole stays a hole. Images without objects stay.
# Seen: each part of a region is an object of its own. Holes are filled. The polygon joins the
# centres of the border pixels and "area" is that of the polygon: 81 for 10 x 10 pixels. An image
# without objects is left out. Plain COCO leaves out all brush regions.
# Hurts: an animal behind a pole counts as two, AP by size shifts, and the negatives are gone.
# Do: export BRUSH_TO_NUMPY or BRUSH_TO_PNG, and make the COCO file with pycocotools' masks.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
python3 -m venv env
env/bin/pip install --quiet --no-deps label-studio-sdk==2.1.2 appdirs==1.4.4 \
    certifi==2026.10.19.post1 charset-normalizer==3.5.3 idna==3.20 ijson==3.2.3 lxml==6.1.3 \
    nltk==3.10.4 numpy==2.2.6 pillow==13.0.0 PyJWT==2.13.0 regex==2026.11.19 requests==2.34.2 \
    ujson==6.1.0 urllib3==2.8.0 opencv-python-headless==4.12.0.88
env/bin/python - <<'PY'
import json, logging, sys
import numpy as np
from label_studio_sdk.converter.brush import mask2rle
from label_studio_sdk.converter.converter import Converter

logging.disable()
parts, ring = np.zeros((2, 100, 100), np.uint8)
parts[10:20, 10:20] = parts[10:20, 30:40] = 255
ring[50:90, 50:90] = 255
ring[60:80, 60:80] = 0
result = [{"from_name": "brush", "to_name": "image", "type": "brushlabels",
           "original_width": 100, "original_height": 100, "image_rotation": 0,
           "value": {"format": "rle", "rle": mask2rle(mask), "brushlabels": ["cat"]}}
          for mask in (parts, ring)]
tasks = [{"id": number, "data": {"image": f"http://example.org/{number}.jpg"},
          "annotations": [{"id": number, "completed_by": 1, "result": regions}]}
         for number, regions in ((1, []), (2, result))]
json.dump(tasks, open("tasks.json", "w"))
config = """<View><Image name="image" value="$image"/>
<BrushLabels name="brush" toName="image"><Label value="cat"/></BrushLabels></View>"""
Converter(config, project_dir=None, download_resources=False).convert(
    "tasks.json", "out", "BRUSH_TO_COCO", is_dir=False)

coco = json.load(open("out/result_coco.json"))
seen = sorted((a["bbox"], a["area"], len(a["segmentation"])) for a in coco["annotations"])
print("regions drawn: 2, of", int((parts > 0).sum()), "and", int((ring > 0).sum()), "pixels")
for bbox, area, polygons in seen:
    print("object: bbox", bbox, "area", area, "polygons", polygons)
print("images", [image["file_name"] for image in coco["images"]])
if seen != [([10, 10, 10, 10], 81, 1), ([30, 10, 10, 10], 81, 1), ([50, 50, 40, 40], 1521, 1)]:
    sys.exit("changed: parts and holes are written in another way")
if [image["file_name"] for image in coco["images"]] != ["2.jpg"]:
    sys.exit("changed: the image without objects is written")
PY
