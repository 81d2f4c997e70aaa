#!/usr/bin/env bash
# roboflow 1.7.3: how `roboflow import` and Workspace.upload_dataset read a folder (parsefolder).
# Expected: an image's split is the name of its folder, and val/ is the validation split.
# Seen: it is the first of "valid", "train" and "test" that stands anywhere in the path, the file's
# name included, and "train" where none does. val/ and val2017/ become train.
# Hurts: images that were kept apart are trained on; AP looks better than it is.
# Do: call the folder valid/, use none of the three words in other names, or pass `split`.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/env"
"$tmp/env/bin/pip" install --quiet --no-deps roboflow==1.7.3 requests==2.34.2 urllib3==2.8.0 \
    idna==3.20 certifi==2026.10.19.post1 charset-normalizer==3.5.3 requests-toolbelt==1.0.0 \
    tqdm==4.70.1 pillow==11.0.0 pillow-avif-plugin==1.6.0 pyyaml==6.0.4
"$tmp/env/bin/python" - "$tmp/data" <<'PY'
import pathlib, sys
from PIL import Image
from roboflow.util.folderparser import parsefolder

names = ("train/1.png", "val/2.png", "val2017/3.png", "test/4.png", "test/drain-trainer.png",
         "train/invalid-code.png")
for name in names:
    path = pathlib.Path(sys.argv[1], name)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (100, 80)).save(path)

splits = {image["file"][1:]: image["split"] for image in parsefolder(sys.argv[1])["images"]}
for name in names:
    print(name, "->", splits[name])
if [splits[name] for name in names] != ["train", "train", "train", "test", "train", "valid"]:
    sys.exit("changed: the splits are no longer taken from letters anywhere in the path")
PY
