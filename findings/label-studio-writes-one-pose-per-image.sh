#!/usr/bin/env bash
# label-studio-sdk 2.1.2, its converter: COCO of key points, where each has its person as parent.
# Expected: each person is an annotation with a box and its key points. The tool's own YOLO is so.
# Seen: all key points of an image are one annotation: the last person's points stay, the others
# are lost. It has a class of its own ("default"), a box around the points only, which can be 0
# wide, and no "area". The persons' own boxes have no key points.
# Hurts: a key point model learns one person per image, and pycocotools stops for want of "area".
# Do: export YOLO instead, or build the key points from the JSON export and its parentID.
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
import glob, json, logging, sys
from label_studio_sdk.converter.converter import Converter

logging.disable()


def region(kind, name, label, **value):
    return {"from_name": kind, "to_name": "image", "type": kind + "labels", "id": name,
            "original_width": 100, "original_height": 100, "image_rotation": 0,
            "value": dict(value, rotation=0, **{kind + "labels": [label]})}


result = []
for person, left in ("first", 10), ("second", 60):
    result.append(region("rectangle", person, "person", x=left, y=10, width=20, height=80))
    for label, y in ("head", 15), ("foot", 85):
        point = region("keypoint", person + label, label, x=left + 10, y=y, width=1)
        result.append(dict(point, parentID=person))
task = {"id": 1, "data": {"image": "http://example.org/a.jpg"},
        "annotations": [{"id": 1, "completed_by": 1, "result": result}]}
json.dump([task], open("tasks.json", "w"))
config = """<View><Image name="image" value="$image"/>
<RectangleLabels name="rectangle" toName="image"><Label value="person"/></RectangleLabels>
<KeyPointLabels name="keypoint" toName="image"><Label value="head" model_index="0"/>
<Label value="foot" model_index="1"/></KeyPointLabels></View>"""
for form in "COCO", "YOLO":
    Converter(config, project_dir=None, download_resources=False).convert(
        "tasks.json", form, form, is_dir=False)

coco = json.load(open("COCO/result.json"))
names = {category["id"]: category["name"] for category in coco["categories"]}
seen = [(names[a["category_id"]], a["bbox"], a.get("keypoints")) for a in coco["annotations"]]
for annotation in seen:
    print("COCO", *annotation)
print("YOLO", *open(glob.glob("YOLO/labels/*.txt")[0]), sep="\n  ")
if seen != [("person", [10, 10, 20, 80], None), ("person", [60, 10, 20, 80], None),
            ("default", [70, 15, 0, 70], [70, 15, 2, 70, 85, 2])]:
    sys.exit("changed: COCO no longer holds one pose, the last one")
if "area" in coco["annotations"][2]:
    sys.exit("changed: the pose has an area")
PY
