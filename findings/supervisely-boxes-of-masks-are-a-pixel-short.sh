#!/usr/bin/env bash
# supervisely 6.74.51, to_coco: the boxes of masks and rectangles.
# Expected: "bbox" holds the object's pixels, and a rectangle's "area" is width times height.
# Seen: width and height are last pixel minus first pixel, one less than the pixels. "area" counts
# all pixels. A thing that is one pixel wide gets a box of width 0.
# Hurts: small objects most: 8 x 8 pixels become 7 x 7, an IoU of 0.77 with the truth. Detectron2
# drops boxes of width 0 in training, and evaluation can't match them.
# Do: add 1 to the width and height of each box before use.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
python3 -m venv env
# It also needs the system's libmagic.
env/bin/pip install --quiet --no-deps supervisely==6.74.51 typing_extensions==4.16.0 \
    pydantic==2.12.3 opencv-python-headless==4.14.0.94 python-json-logger==3.0.1 aiofiles==25.1.0 \
    requests==2.34.0 urllib3==2.8.0 idna==3.20 certifi==2026.10.19.post1 charset-normalizer==3.5.3 \
    tqdm==4.70.1 numpy==2.4.6 jsonschema==4.23.0 attrs==26.1.0 referencing==0.37.0 \
    rpds-py==2026.9.1 jsonschema-specifications==2025.9.1 httpx==0.27.2 sniffio==1.3.1 \
    httpcore==1.0.9 h11==0.16.0 pynrrd==0.4.3 pillow==12.3.0 packaging==26.4 PyJWT==2.15.1 \
    python-dotenv==1.2.2 requests-toolbelt==1.0.0 shapely==2.1.2 prettytable==3.18.0 \
    pydantic_core==2.41.4 typing-inspection==0.4.5 annotated-types==0.8.0 bidict==0.24.1 \
    numerize==0.12 pydicom==3.0.2 SimpleITK==2.4.1 stringcase==1.2.0 trimesh==4.5.0 click==8.5.1 \
    rich==15.0.0 pandas==2.3.3 pytz==2026.6 python-dateutil==2.9.0.post0 six==1.17.0 \
    fastapi==0.136.3 starlette==1.3.1 annotated-doc==0.0.7 anyio==4.16.0 jsonpatch==1.48 \
    jsonpointer==3.12 Jinja2==3.1.6 MarkupSafe==2.1.5 psutil==7.2.0 async-asgi-testclient==1.4.11 \
    multidict==6.9.1 cachetools==5.5.0 beautifulsoup4==4.15.0 soupsieve==4.1.3 varname==0.15.1 \
    executing==2.3.0 PyYAML==6.0.4 uvicorn==0.54.0 cacheout==0.14.1 python-magic==0.4.27 \
    imutils==0.5.4
env/bin/python - <<'PY'
import json, logging, sys
import numpy as np
import supervisely as sly

logging.disable()
square, pole = np.zeros((2, 100, 200), bool)
square[10:18, 30:38] = True
pole[20:80, 100] = True
mask, box = sly.ObjClass("mask", sly.Bitmap), sly.ObjClass("box", sly.Rectangle)
labels = [sly.Label(sly.Bitmap(square), mask), sly.Label(sly.Bitmap(pole), mask),
          sly.Label(sly.Rectangle(top=50, left=50, bottom=57, right=57), box)]
project = sly.Project("project", sly.OpenMode.CREATE)
project.set_meta(sly.ProjectMeta([mask, box]))
project.create_dataset("images").add_item_np(
    "a.png", np.zeros((100, 200, 3), np.uint8), sly.Annotation((100, 200), labels))
sly.convert.to_coco("project", dest_dir="coco", log_progress=False)

coco = json.load(open("coco/images/annotations/coco_instances.json"))
seen = sorted((a["bbox"], a["area"]) for a in coco["annotations"])
print("drawn: masks of 8 x 8 at (30, 10) and 1 x 60 at (100, 20); a rectangle of pixels 50 to 57")
for bbox, area in seen:
    print("bbox", bbox, "area", area)
if seen != [([30, 10, 7, 7], 64), ([50, 50, 7, 7], 64), ([100, 20, 0, 59], 60)]:
    sys.exit("changed: the boxes are no longer a pixel short")
PY
