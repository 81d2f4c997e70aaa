#!/usr/bin/env bash
# coco-assistant 0.4.0, merge of two COCO files.
# Expected: a class that only the second file has gets an id that is free.
# Seen: it gets the number of classes so far plus one. Where the first file's ids have gaps (3 and
# 7) that id is taken: cat and bird are both 3. Class names come out in lower case.
# Hurts: whoever adds a class to a part of COCO. Birds cannot be told from cats any more.
# Do: renumber the first file's classes to 1 to n before; two "categories" may not share an id.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/env"
"$tmp/env/bin/pip" install --quiet --no-deps coco-assistant==0.4.0 numpy==1.26.4 pandas==2.2.3 \
    pytz==2024.2 tzdata==2024.2 python-dateutil==2.9.0.post0 six==1.17.0 seaborn==0.13.2 \
    matplotlib==3.9.2 contourpy==1.3.0 cycler==0.12.1 fonttools==4.54.1 kiwisolver==1.4.7 \
    packaging==24.1 pyparsing==3.1.4 pillow==11.0.0 pycocotools==2.0.8 tqdm==4.66.5 \
    requests==2.32.3 urllib3==2.2.3 idna==3.10 certifi==2024.8.30 charset-normalizer==3.3.2
"$tmp/env/bin/python" - "$tmp/data" <<'PY'
import json, pathlib, sys
from coco_assistant import COCO_Assistant

root = pathlib.Path(sys.argv[1])
for name, classes in (("a", {3: "cat", 7: "dog"}), ("b", {1: "cat", 2: "bird"})):
    (root / "images" / name).mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    json.dump({
        "info": {}, "licenses": [],
        "images": [{"id": 1, "file_name": f"{name}.jpg", "width": 100, "height": 80}],
        "categories": [{"id": i, "name": c, "supercategory": ""} for i, c in classes.items()],
        "annotations": [{"id": n, "image_id": 1, "category_id": i, "bbox": [10 * n, 10, 9, 9],
                         "area": 81, "iscrowd": 0} for n, i in enumerate(classes, 1)],
    }, open(root / "annotations" / f"{name}.json", "w"))

COCO_Assistant(root / "images", root / "annotations").merge()
merged = json.load(open(root / "results/merged/annotations/merged.json"))
ids = [(category["name"], category["id"]) for category in merged["categories"]]
used = [annotation["category_id"] for annotation in merged["annotations"]]
print("categories", ids)
print("category ids of the objects cat, dog, cat, bird:", used)
if ids != [("cat", 3), ("dog", 7), ("bird", 3)] or used != [3, 7, 3, 3]:
    sys.exit("changed: the new class no longer gets the id of an old one")
PY
