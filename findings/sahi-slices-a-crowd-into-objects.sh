#!/usr/bin/env bash
# sahi 0.12.8, slice_coco. image-dataset-converter 0.1.0 does the same from COCO to COCO.
# Expected: a crowd stays a crowd (iscrowd 1) in every tile.
# Seen: each tile gets an ordinary object. A crowd's mask is RLE, which sahi does not read: the
# object is the crowd's whole box, cut to the tile.
# Hurts: training learns a large box around many objects, and evaluation counts each as missed.
# Do: take annotations with iscrowd 1 out before, and leave out the tiles that they touch.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/env"
"$tmp/env/bin/pip" install --quiet --no-deps sahi==0.12.8 numpy==1.26.4 shapely==2.0.6 \
    opencv-python-headless==4.10.0.84 pillow==11.0.0 tqdm==4.66.5 pyyaml==6.0.2 \
    requests==2.32.3 urllib3==2.2.3 idna==3.10 certifi==2024.8.30 charset-normalizer==3.3.2
"$tmp/env/bin/python" - "$tmp" <<'PY'
import json, sys
from PIL import Image
from sahi.slicing import slice_coco

tmp = sys.argv[1]
Image.new("RGB", (100, 80)).save(tmp + "/a.png")
# RLE of two people, 10 x 40 pixels each, at x 20 and x 70: the box spans 60 x 40 pixels.
run = [40, 40]
counts = [20 * 80 + 20] + (run * 10)[:-1] + [40 + 40 * 80] + (run * 10)[:-1]
counts.append(100 * 80 - sum(counts))
json.dump({
    "images": [{"id": 1, "file_name": "a.png", "width": 100, "height": 80}],
    "categories": [{"id": 1, "name": "person", "supercategory": ""}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 1, "area": 800,
                     "bbox": [20, 20, 60, 40],
                     "segmentation": {"size": [80, 100], "counts": counts}}],
}, open(tmp + "/a.json", "w"))
slice_coco(tmp + "/a.json", tmp, "tiles", output_dir=tmp + "/out", slice_height=80, slice_width=50,
           overlap_height_ratio=0, overlap_width_ratio=0, verbose=False)
found = json.load(open(tmp + "/out/tiles_coco.json"))["annotations"]
for annotation in found:
    print("tile", annotation["image_id"], "iscrowd", annotation["iscrowd"],
          "box", annotation["bbox"], "area", annotation["area"])
if [(a["iscrowd"], a["area"]) for a in found] != [(0, 30 * 40), (0, 30 * 40)]:
    sys.exit("changed: a crowd is no longer sliced into ordinary objects")
PY
