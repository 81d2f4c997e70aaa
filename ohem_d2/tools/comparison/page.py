"""The page of a comparison, one HTML file."""

import contextlib
import io
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.data.detection_utils import read_image
from matplotlib.figure import Figure
from pycocotools.coco import COCO

from ...monitor.pictures import BACKGROUND, FOREGROUND, GROUND_TRUTH
from ..data.evaluation import labels_file
from ..drawing import data_uri, draw_boxes, encode
from ..files import write_atomically
from ..runs import mean_and_spread
from .detections import Found, found, most_different

PICTURES = 8
LONG_SIDE = 640  # of a photograph on the page, in pixels
PACKAGES = ("torch", "torchvision", "numpy", "pycocotools")


def write_page(
    file: Path,
    variants: Mapping[str, CfgNode],
    folders: Mapping[str, Path],
    content: Mapping[str, Any],
    table: Sequence[str],
) -> Path:
    """
    Write the answer, the table, the curve, the settings, and what the first two variants find
    differently with one seed. ``folders`` are the runs of that seed, by variant. Returns the file.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    results = content["results"]
    page = environment.get_template("compare.html.j2").render(
        answer=content["answer"],
        table=[[cell.strip() for cell in row.strip("|").split("|")] for row in table],
        curve=curve(results),
        classes=classes(results),
        names=list(results),
        pictures=list(pictures(variants, folders)),
        command=content["command"],
        versions={name: version(name) for name in PACKAGES},
        settings={name: differences(variants, name) for name in variants},
        shared=next(iter(variants.values())).dump(),
    )
    write_atomically(file, page)
    return file


def curve(results: Mapping[str, Mapping[int, dict]]) -> str:
    """AP against iterations as an SVG: the mean over seeds, and a band of one deviation."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for name, by_seed in results.items():
        points: dict[int, list[float]] = {}
        for result in by_seed.values():
            for iteration, ap in result["curve"]:
                points.setdefault(iteration, []).append(ap)
        x = sorted(points)
        mean = np.array([np.mean(points[i]) for i in x])
        spread = np.array([np.std(points[i], ddof=1) if len(points[i]) > 1 else 0 for i in x])
        (line,) = axes.plot(x, mean, marker="o", markersize=3, label=name)
        axes.fill_between(x, mean - spread, mean + spread, alpha=0.15, color=line.get_color())
    axes.set(xlabel="iteration", ylabel="AP")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    svg = io.StringIO()
    figure.savefig(svg, format="svg", transparent=True)
    return svg.getvalue()


def classes(results: Mapping[str, Mapping[int, dict]]) -> list[list[str]]:
    """A row for each class: its name, and the AP of each variant."""
    first = next(iter(next(iter(results.values())).values()))
    rows = []
    for name in first["classes"]:
        of_class = ([r["classes"][name] for r in by_seed.values()] for by_seed in results.values())
        rows.append([name, *(mean_and_spread(values, 1) for values in of_class)])
    return rows


def pictures(variants: Mapping[str, CfgNode], folders: Mapping[str, Path]) -> list[dict[str, Any]]:
    """
    Test images on which the objects found by the first two variants differ most. Each has a name,
    and for both variants the variant's name, its counts and a picture as a data URL.
    """
    first, images_of = next(iter(variants)), {}
    cfg = variants[first].clone()
    cfg.OUTPUT_DIR = str(folders[first])
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(labels_file(cfg, cfg.DATASETS.TEST[0]))
    num = sum(not a["iscrowd"] for a in truth.anns.values())
    for name in [*variants][:2]:
        file = folders[name] / "inference/coco_instances_results.json"
        # Detectors score differently, so take as many of the best boxes as there are objects
        best = sorted(json.loads(file.read_text()), key=lambda d: -d["score"])[:num]
        images_of[name] = found(truth, best)
    files = {r["image_id"]: r["file_name"] for r in DatasetCatalog.get(cfg.DATASETS.TEST[0])}
    one, other, out = [*images_of.values()][0], [*images_of.values()][-1], []
    for image in most_different(one, other, PICTURES):
        photograph, sides = read_image(str(files[image]), "RGB"), []
        zoom = LONG_SIDE / max(photograph.shape[:2])
        for name, what in ((n, images[image]) for n, images in images_of.items()):
            counts = f"{len(what.right)} found, {len(what.missed)} missed, {len(what.wrong)} false"
            data = data_uri(encode(draw(photograph, what, zoom), ".jpg"), "image/jpeg")
            sides.append({"name": name, "counts": counts, "data": data})
        out.append({"name": Path(files[image]).name, "sides": sides})
    return out


def differences(variants: Mapping[str, CfgNode], name: str) -> str:
    """The lines of a variant's configuration that not all variants have."""
    shared = set.intersection(*(set(cfg.dump().splitlines()) for cfg in variants.values()))
    return "\n".join(line for line in variants[name].dump().splitlines() if line not in shared)


def draw(image: np.ndarray, what: Found, scale: float) -> np.ndarray:
    """Draw on an RGB image (H, W, 3): right in blue, wrong in red, missed in green."""
    colors = (what.missed, GROUND_TRUTH), (what.wrong, BACKGROUND), (what.right, FOREGROUND)
    picture = draw_boxes(image, np.zeros((0, 4)), GROUND_TRUTH, scale=scale)
    for boxes, color in colors:
        picture = draw_boxes(picture, boxes * scale, color)
    return picture
