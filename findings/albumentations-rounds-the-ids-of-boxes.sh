#!/usr/bin/env bash
# albumentations 2.0.8, Compose with BboxParams(label_fields=[...]) and a field of whole numbers.
# Expected: what is in a label field comes out as it went in.
# Seen: numbers go through 32-bit floats. 3 comes out as 3.0, and ids over 16777216 come out as
# other numbers: COCO's own ids of crowds have twelve digits.
# Hurts: whoever sends annotation ids along, to find area, iscrowd or attributes again afterwards.
# Do: send the position in the list along, or the id as text.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/env"
"$tmp/env/bin/pip" install --quiet --no-deps albumentations==2.0.8 albucore==0.0.24 numpy==1.26.4 \
    scipy==1.14.1 opencv-python-headless==4.10.0.84 pyyaml==6.0.2 pydantic==2.9.2 \
    pydantic-core==2.23.4 annotated-types==0.7.0 typing-extensions==4.12.2 stringzilla==3.10.5 \
    simsimd==5.9.4
NO_ALBUMENTATIONS_UPDATE=1 "$tmp/env/bin/python" - <<'PY'
import sys
import albumentations as A
import numpy as np

flip = A.Compose([A.HorizontalFlip(p=1)],
                 bbox_params=A.BboxParams(format="coco", label_fields=["ids", "texts"]))
ids = [3, 16777217, 900100184613]
seen = flip(image=np.zeros((80, 100, 3), np.uint8), ids=ids, texts=[str(i) for i in ids],
            bboxes=[[10, 10, 20, 20], [40, 10, 20, 20], [70, 10, 20, 20]])
for before, after, text in zip(ids, seen["ids"], seen["texts"]):
    print("id", before, "->", repr(after), "; as text", repr(text))
if seen["ids"] != [3.0, 16777216.0, 900100194304.0] or type(seen["ids"][0]) is not float:
    sys.exit("changed: the ids no longer come out rounded")
PY
