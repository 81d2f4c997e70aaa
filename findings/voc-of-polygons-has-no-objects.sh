#!/usr/bin/env bash
# datumaro 1.13.12 (CVAT's XML to Pascal VOC) and label-studio-sdk 2.1.2 (its converter to VOC).
# Expected: a polygon becomes the box around it, as in the COCO files of both.
# Seen: only rectangles become objects. Polygons are left out without a warning, datumaro's masks
# and Label Studio's brushes too. The image stays: as XML without objects (Label Studio) or as a
# name in ImageSets (datumaro).
# Hurts: such images teach that the objects are background; in VOC a model learns half of them.
# Do: export COCO where anything was drawn as a polygon, and compare the counts per class.
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
python3 -m venv label
label/bin/pip install --quiet --no-deps label-studio-sdk==2.1.2 appdirs==1.4.4 \
    certifi==2026.10.19.post1 charset-normalizer==3.5.3 idna==3.20 ijson==3.2.3 lxml==6.1.3 \
    nltk==3.10.4 numpy==2.2.6 pillow==13.0.0 PyJWT==2.13.0 regex==2026.11.19 requests==2.34.2 \
    ujson==6.1.0 urllib3==2.8.0
env/bin/python - <<'PY'
import json, os
import datumaro
from PIL import Image

os.makedirs("cvat/images")
Image.new("RGB", (100, 100)).save("cvat/images/a.png")
with open("cvat/annotations.xml", "w") as file:
    file.write('<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version><meta>'
               "<task><id>1</id><labels><label><name>cat</name><attributes></attributes></label>"
               '</labels></task></meta><image id="0" name="a.png" width="100" height="100">'
               '<box label="cat" occluded="0" xtl="10.00" ytl="10.00" xbr="30.00" ybr="30.00" '
               'z_order="0"></box><polygon label="cat" occluded="0" '
               'points="50.00,50.00;70.00,50.00;60.00,70.00" z_order="0"></polygon></image>'
               "</annotations>")
dataset = datumaro.Dataset.import_from("cvat", "cvat")
dataset.export("datumaro/voc", "voc_detection")
dataset.export("datumaro/coco", "coco_instances")
PY
label/bin/python - <<'PY'
import json, logging
from label_studio_sdk.converter.converter import Converter

logging.disable()
common = {"to_name": "image", "original_width": 100, "original_height": 100, "image_rotation": 0}
box = dict(common, from_name="box", type="rectanglelabels", value={
    "x": 10, "y": 10, "width": 20, "height": 20, "rotation": 0, "rectanglelabels": ["cat"]})
polygon = dict(common, from_name="polygon", type="polygonlabels", value={
    "points": [[50, 50], [70, 50], [60, 70]], "polygonlabels": ["cat"]})
json.dump([{"id": 1, "data": {"image": "http://example.org/a.jpg"},
            "annotations": [{"id": 1, "completed_by": 1, "result": [box, polygon]}]}],
          open("tasks.json", "w"))
config = """<View><Image name="image" value="$image"/>
<RectangleLabels name="box" toName="image"><Label value="cat"/></RectangleLabels>
<PolygonLabels name="polygon" toName="image"><Label value="cat"/></PolygonLabels></View>"""
for form in "COCO", "VOC":
    Converter(config, project_dir=None, download_resources=False).convert(
        "tasks.json", f"label-studio/{form.lower()}", form, is_dir=False)
PY
for tool in datumaro label-studio; do
    coco=$(find $tool/coco -name "*.json" -exec grep -o '"bbox"' {} + | wc -l)
    voc=$(cat $tool/voc/Annotations/*.xml | grep -c "<object>")
    echo "$tool: drawn 2, objects in COCO $coco, objects in VOC $voc"
    [ "$coco $voc" = "2 1" ] || { echo "changed: $tool writes other objects" >&2; exit 1; }
done
