#!/usr/bin/env bash
# labelme2coco 0.2.6 with sahi 0.12.8: the validation folder is converted with the categories of the
# training folder (coco_category_list), as the README shows.
# Expected: known names keep their ids, and a new name gets the next free one.
# Seen: the new name gets the first id and pushes the cat out; the next cat gets the dog's id.
# Hurts: one label that only validation has swaps the classes of all others there. Nothing fails.
# Do: look for names that only one folder has; two "categories" may share neither id nor name.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/env"
"$tmp/env/bin/pip" install --quiet --no-deps labelme2coco==0.2.6 sahi==0.12.8 numpy==1.26.4 \
    shapely==2.0.6 opencv-python-headless==4.10.0.84 pillow==11.0.0 tqdm==4.66.5 pyyaml==6.0.2 \
    requests==2.32.3 urllib3==2.2.3 idna==3.10 certifi==2024.8.30 charset-normalizer==3.3.2
"$tmp/env/bin/python" - "$tmp" <<'PY'
import json, pathlib, sys
from labelme2coco import get_coco_from_labelme_folder

folders = {"train": ("cat", "dog"), "val": ("bird", "cat", "dog")}
for folder, labels in folders.items():
    path = pathlib.Path(sys.argv[1], folder)
    path.mkdir()
    shapes = [{"label": label, "shape_type": "rectangle", "group_id": None, "flags": {},
               "points": [[10, 10 + 20 * row], [40, 25 + 20 * row]]}
              for row, label in enumerate(labels)]
    json.dump({"version": "5.5.0", "flags": {}, "imagePath": "1.png", "imageData": None,
               "imageHeight": 80, "imageWidth": 100, "shapes": shapes}, open(path / "1.json", "w"))

train = get_coco_from_labelme_folder(sys.argv[1] + "/train", category_id_start=1)
val = get_coco_from_labelme_folder(
    sys.argv[1] + "/val", coco_category_list=train.json_categories, category_id_start=1)
ids = {}
for folder, coco in (("train", train.json), ("val", val.json)):
    print(folder, "categories", [(c["name"], c["id"]) for c in coco["categories"]])
    ids[folder] = [annotation["category_id"] for annotation in coco["annotations"]]
    print(folder, "objects", dict(zip(folders[folder], ids[folder])))
if ids != {"train": [1, 2], "val": [1, 2, 3]}:
    sys.exit("changed: a new name no longer shifts the ids of the others")
PY
