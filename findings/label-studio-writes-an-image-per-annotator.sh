#!/usr/bin/env bash
# label-studio-sdk 2.1.2, its converter: a task that two people annotated.
# Expected: one image, with the newest objects, or a warning.
# Seen: COCO lists the image twice, with two ids and one file name, and gives each the objects of
# one person. Pascal VOC has one file for both: the older annotation replaces the newer one.
# label-studio-converter 0.0.59 does the same.
# Hurts: with COCO an image trains twice, a split by image id puts the same picture into training
# and evaluation, and what only one person drew is a false positive in the other copy. With VOC the
# corrected boxes are lost.
# Do: keep one annotation per task before the export. In COCO, look for equal file names.
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


def annotation(person, day, *lefts):
    return {"id": person, "completed_by": person, "created_at": f"2024-05-{day:02}T12:00:00Z",
            "result": [{"from_name": "box", "to_name": "image", "type": "rectanglelabels",
                        "original_width": 100, "original_height": 100, "image_rotation": 0,
                        "value": {"x": left, "y": 10, "width": 20, "height": 20, "rotation": 0,
                                  "rectanglelabels": ["cat"]}} for left in lefts]}


# The first person saw one cat. A day later the second one drew it again, and a cat at 60.
task = {"id": 1, "data": {"image": "http://example.org/a.jpg"},
        "annotations": [annotation(1, 1, 10), annotation(2, 2, 12, 60)]}
json.dump([task], open("tasks.json", "w"))
config = """<View><Image name="image" value="$image"/>
<RectangleLabels name="box" toName="image"><Label value="cat"/></RectangleLabels></View>"""
for form in "COCO", "VOC":
    Converter(config, project_dir=None, download_resources=False).convert(
        "tasks.json", form, form, is_dir=False)

coco = json.load(open("COCO/result.json"))
images = [(image["id"], image["file_name"]) for image in coco["images"]]
lefts = [(a["image_id"], a["bbox"][0]) for a in coco["annotations"]]
files = glob.glob("VOC/Annotations/*.xml")
voc = [re.findall("<xmin>(.*)</xmin>", open(file).read()) for file in files]
print("COCO images", images)
print("COCO objects (image, left)", lefts)
print("VOC files and the left sides in them", voc)
if len(images) != 2 or len({name for _, name in images}) != 1:
    sys.exit("changed: COCO no longer lists the image once per annotator")
if lefts != [(0, 12), (0, 60), (1, 10)]:
    sys.exit("changed: COCO's objects are others")
if voc != [["10"]]:
    sys.exit("changed: VOC no longer holds the older annotation")
PY
