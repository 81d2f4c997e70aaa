#!/usr/bin/env bash
# roboflow 1.7.3: how `roboflow import` and Workspace.upload_dataset read a folder (parsefolder).
# Expected: the COCO file in valid/ labels the images in valid/, and the one in train/ those in
# train/.
# Seen: an image's labels are looked up in all files by its bare name, and the first file wins.
# Where both splits have a 0001.png, the one in valid/ gets the boxes of train/, or loses its own.
# Hurts: whoever numbers images per split or per camera has wrong labels, without a message.
# Do: give every image of the data set a name of its own, or import one split at a time.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/env"
"$tmp/env/bin/pip" install --quiet --no-deps roboflow==1.7.3 requests==2.34.2 urllib3==2.8.0 \
    idna==3.20 certifi==2026.10.19.post1 charset-normalizer==3.5.3 requests-toolbelt==1.0.0 \
    tqdm==4.70.1 pillow==11.0.0 pillow-avif-plugin==1.6.0 pyyaml==6.0.4
"$tmp/env/bin/python" - "$tmp/data" <<'PY'
import json, pathlib, sys
from PIL import Image
from roboflow.util.folderparser import parsefolder

root = pathlib.Path(sys.argv[1])
boxes = {"train": [[1, 1, 10, 10], None], "valid": [[50, 50, 20, 20], [3, 3, 30, 30]]}
for split in boxes:
    (root / split).mkdir(parents=True)
    for number in (1, 2):
        Image.new("RGB", (100, 80)).save(root / split / f"000{number}.png")
    json.dump({
        "info": {}, "licenses": [], "categories": [{"id": 1, "name": "cat", "supercategory": ""}],
        "images": [{"id": number, "file_name": f"000{number}.png", "width": 100, "height": 80}
                   for number in (1, 2)],
        "annotations": [{"id": number, "image_id": number, "category_id": 1, "bbox": box,
                         "area": box[2] * box[3], "iscrowd": 0, "segmentation": []}
                        for number, box in enumerate(boxes[split], 1) if box],
    }, open(root / split / "_annotations.coco.json", "w"))

found = {}
for image in parsefolder(str(root))["images"]:
    labels = json.loads(image["annotationfile"]["rawText"])["annotations"]
    # For an image without objects it sends one annotation without a box.
    found[image["file"]] = [label["bbox"] for label in labels if "bbox" in label]
    print(image["file"], "boxes", found[image["file"]])
if found["/valid/0001.png"] != [[1, 1, 10, 10]] or found["/valid/0002.png"] != []:
    sys.exit("changed: the images in valid/ no longer get the labels of their namesakes in train/")
PY
