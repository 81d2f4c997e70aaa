#!/usr/bin/env bash
# supervisely 6.74.51, to_coco: an object of key points where one point was not drawn.
# Expected: the box lies around the points that were drawn, and num_keypoints counts those.
# Seen: a point that is missing counts as (0, 0). The box reaches to the image's top left corner,
# "area" is that of this box, and num_keypoints counts the missing point too.
# Hurts: each half hidden person gets a box over a quarter of the image; training and AP use it.
# Do: compute "bbox", "area" and "num_keypoints" again from the points whose visibility isn't 0.
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
from supervisely.geometry.graph import GraphNodes, KeypointsTemplate, Node
from supervisely.geometry.point_location import PointLocation

logging.disable()
template = KeypointsTemplate()
for label in "head", "hand", "foot":
    template.add_point(label=label, row=0, col=0)
head, hand, foot = template.config["nodes"]
person = sly.ObjClass("person", GraphNodes, geometry_config=template)
points = {head: Node(PointLocation(row=60, col=170)), hand: Node(PointLocation(row=75, col=180)),
          foot: Node(PointLocation(row=90, col=170))}
project = sly.Project("project", sly.OpenMode.CREATE)
project.set_meta(sly.ProjectMeta([person]))
dataset = project.create_dataset("images")
for name, drawn in ("a.png", (head, hand, foot)), ("b.png", (head, hand)):
    graph = GraphNodes({node: points[node] for node in drawn})
    dataset.add_item_np(name, np.zeros((100, 200, 3), np.uint8),
                        sly.Annotation((100, 200), [sly.Label(graph, person)]))
sly.convert.to_coco("project", dest_dir="coco", log_progress=False)

coco = json.load(open("coco/images/annotations/coco_instances.json"))
names = {image["id"]: image["file_name"] for image in coco["images"]}
seen = {names[a["image_id"]]: (a["bbox"], a["area"], a["num_keypoints"], a["keypoints"])
        for a in coco["annotations"]}
for name in sorted(seen):
    print(name, "bbox %s area %s num_keypoints %s keypoints %s" % seen[name])
if seen["a.png"][:3] != ([170, 60, 10, 30], 300, 3):
    sys.exit("changed: the box of an object with all points is another one")
if seen["b.png"][:3] != ([0, 0, 180, 75], 13500, 3):
    sys.exit("changed: a missing point no longer counts as (0, 0)")
PY
