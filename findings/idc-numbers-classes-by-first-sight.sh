#!/usr/bin/env bash
# image-dataset-converter 0.1.0, from Pascal VOC to COCO, one run per split.
# Expected: the same names get the same ids in each run.
# Seen: a class gets the next id when its first object is read. In "train" the cat is 1; in "test",
# where another image comes first, the dog is 1. labelme2coco 0.2.6 numbers classes this way too.
# Hurts: a model trained on one file and evaluated on the other has its classes swapped; AP is near
# 0.
# Do: pass `--categories cat dog` in every run, and compare "categories" of the two files.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/env"
# --no-deps: one dependency, for depth images, needs a compiler. Nothing here uses it.
"$tmp/env/bin/pip" install --quiet --no-deps image-dataset-converter==0.1.0 kasperl==0.0.3 \
    seppl==0.3.1 fast-opex==0.0.4 wai-common==0.0.46 wai-logging==0.0.8 imagesize==2.0.1 \
    simple-palette-utils==0.0.4 python-image-complete==0.0.6 defusedxml==0.7.1 croniter==7.0.0 \
    watchdog==7.1.0 python-dotenv==1.2.4 platformdirs==4.14.8 javaproperties==0.8.2 \
    typing-inspect==0.9.0 mypy-extensions==1.2.0 typing-extensions==4.16.0 numpy==1.26.4 \
    pillow==11.0.0 shapely==2.0.6 opencv-python-headless==4.10.0.84 matplotlib==3.11.2 \
    contourpy==1.3.3 cycler==0.12.1 fonttools==4.68.0 kiwisolver==1.5.1 packaging==26.4 \
    pyparsing==3.3.3 python-dateutil==4.0.0 six==1.17.0
"$tmp/env/bin/python" - "$tmp" <<'PY'
import pathlib, sys
from PIL import Image

for split, names in (("train", ("cat", "dog")), ("test", ("dog", "cat"))):
    folder = pathlib.Path(sys.argv[1], split)
    folder.mkdir()
    for number, name in enumerate(names):
        Image.new("RGB", (100, 80)).save(folder / f"{number}.png")
        (folder / f"{number}.xml").write_text(
            f"<annotation><folder></folder><filename>{number}.png</filename>"
            f"<size><width>100</width><height>80</height><depth>3</depth></size>"
            f"<object><name>{name}</name><bndbox>"
            "<xmin>10</xmin><ymin>10</ymin><xmax>40</xmax><ymax>40</ymax></bndbox></object>"
            "</annotation>")
PY
for split in train test; do
    "$tmp/env/bin/idc-convert" from-voc-od -i "$tmp/$split/*.xml" \
        to-coco-od -o "$tmp/coco/$split" 2>"$tmp/log" || { cat "$tmp/log" >&2; exit 1; }
done
"$tmp/env/bin/python" - "$tmp" <<'PY'
import json, sys

ids = {}
for split in ("train", "test"):
    categories = json.load(open(f"{sys.argv[1]}/coco/{split}/annotations.json"))["categories"]
    ids[split] = {category["name"]: category["id"] for category in categories}
    print(split, ids[split])
if ids != {"train": {"cat": 1, "dog": 2}, "test": {"dog": 1, "cat": 2}}:
    sys.exit("changed: the two splits no longer number their classes by first sight")
PY
