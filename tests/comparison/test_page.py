"""The page of a comparison: what it says, and what it looks like in a browser."""

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from marks import CLASSES, write_data

from ohem_d2.tools import compare
from ohem_d2.tools.comparison import page, plan
from ohem_d2.tools.data.datasets import register_datasets
from ohem_d2.tools.load_model import default_cfg, merge

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
SAMPLERS = ["random:128", "ohem:128", "<mine>=SOLVER.BASE_LR 0.1"]


def result(ap, classes):
    """What a run leaves."""
    metrics = dict.fromkeys(("AP50", "AP75", "APs", "APm"), ap + 1) | {"APl": float("nan")}
    curve = [[20, ap / 4], [40, ap / 2], [100, ap]]
    return {"AP": ap, **metrics, "classes": dict(zip(CLASSES, classes)), "curve": curve}


def write_detections(folder, data, keep):
    """So that the objects that ``keep`` takes are found, and a place without an object."""
    coco = json.loads(Path(data.split(":")[1]).read_text())
    boxes = [{**box, "score": 0.9} for box in coco["annotations"] if keep(box)]
    boxes += [{**boxes[0], "bbox": [40.0, 2.0, 20.0, 10.0], "score": 0.95}] if boxes else []
    (folder / "inference").mkdir(parents=True)
    (folder / "inference/coco_instances_results.json").write_text(json.dumps(boxes))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The page of nine records, one of them of a run that found nothing."""
    folder = tmp_path_factory.mktemp("page & more")
    data = write_data(folder / "marks", 12)
    register_datasets([data])
    cfg = merge(default_cfg(), str(plan.CONFIG))
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (data,)
    variants = plan.variants_of(cfg, SAMPLERS)
    gains = {"random 128": (0, 0, 0), "ohem 128": (3.1, 2.9, 3.0), "<mine>": (-2, 4, -30)}
    results = {
        name: {s: result(30 + s + gain, (29 + s + gain, 31 + s)) for s, gain in enumerate(by_seed)}
        for name, by_seed in gains.items()
    }
    folders = {name: folder / f"run {i}" for i, name in enumerate(variants)}
    write_detections(folders["random 128"], data, lambda box: box["category_id"] == 1)
    write_detections(folders["ohem 128"], data, lambda box: box["image_id"] % 3)
    answer, table = compare.sentences(results), compare.table(results)
    content = {"command": "python -m ohem_d2 compare", "answer": answer, "results": results}
    file = page.write_page(folder / "compare.html", variants, folders, content, table)
    return file, content, table


def text_of(file):
    return html.unescape(re.sub(r"<[^>]+>", " ", file.read_text()))


def test_it_has_the_answer_the_table_and_the_classes(made):
    file, content, table = made
    text = text_of(file)
    assert (
        content["answer"][0] == "ohem 128 is ahead of random 128 by 3.0 AP (+2.8 to +3.2, 3 seeds)."
    )
    assert all(sentence in text for sentence in content["answer"]) and len(content["answer"]) == 4
    cells = [html.unescape(c) for c in re.findall("<t[hd]>(.*?)</t[hd]>", file.read_text())]
    expected = [c.strip() for row in table[:1] + table[2:] for c in row.strip("|").split("|")]
    assert cells[: len(expected)] == expected
    # means over the seeds, by hand
    assert re.search(r"narrow\s+30.0 ± 1.0\s+33.0 ± 1.0\s", text)
    assert re.search(r"wide\s+32.0 ± 1.0\s+32.0 ± 1.0\s", text)
    assert "BASE_LR: 0.1" in text and "NAME: OHEMROIHeads" in text
    assert "<mine>" not in file.read_text()  # a name is no markup


def test_sizes_that_do_not_occur_have_no_column(made):
    header = made[2][0]
    assert "small" in header and "medium" in header and "large" not in header


def test_pictures_are_of_the_images_that_differ_most(made):
    """One finds the narrow object of every image, the other both of two images in three."""
    text = text_of(made[0])
    shown = re.findall(r"(\d+)\.png\s+random 128: (\d+) found, (\d+) missed, (\d+) false", text)
    assert 1 <= len(shown) <= page.PICTURES
    for name, *counts in shown:
        right, missed, _ = map(int, counts)
        assert right + missed == 2 and right == 1, name
    others = re.findall(r"ohem 128: (\d+) found, (\d+) missed, (\d+) false", text)
    assert len(others) == len(shown) and any(int(wrong) for *_, wrong in others)


def test_the_curve_is_the_mean_over_seeds(made):
    svg = page.curve(made[1]["results"])
    assert "<svg" in svg and all(name.split()[0] in svg for name in ("random 128", "ohem 128"))


def test_a_run_that_found_nothing_has_a_page(tmp_path):
    """Nothing in all classes, whatever the others found; and no picture, as there is none."""
    data = write_data(tmp_path / "marks", 3)
    register_datasets([data])
    cfg = merge(default_cfg(), str(plan.CONFIG))
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (data,)
    variants = plan.variants_of(cfg, SAMPLERS[:2])
    results = {name: {1: result(0.0, (0.0, 0.0))} for name in variants}
    folders = {name: tmp_path / name for name in variants}
    for folder in folders.values():
        write_detections(folder, data, lambda box: False)
    content = {"command": "x", "answer": compare.sentences(results), "results": results}
    table = compare.table(results)
    file = page.write_page(tmp_path / "compare.html", variants, folders, content, table)
    assert "Both find the same objects." in text_of(file)
    assert re.search(r"wide\s+0.0\s+0.0", text_of(file))


# ---- in a browser ------------------------------------------------------------------------------

PROBE = """<script>
addEventListener("load", () => {
  const answer = document.querySelector(".answer p").getBoundingClientRect();
  parent.postMessage(JSON.stringify({
    space: innerWidth, width: document.documentElement.scrollWidth,
    pictures: [...document.images].map(i => i.complete && i.naturalWidth > 0),
    answer: [answer.left, answer.right, answer.top, answer.height],
    fetched: performance.getEntriesByType("resource").map(r => r.name)
      .filter(n => !n.startsWith("data:")),
  }), "*");
});
</script>"""
# A browser's own window is never as narrow as a phone's; a frame in it is.
FRAME = """<iframe src="probed.html" style="border: 0; height: 900px; width: {width}px"></iframe>
<script>addEventListener("message", e => document.title = e.data);</script>"""


@pytest.mark.parametrize("width", [1200, 390])
def test_in_a_browser(made, tmp_path, width):
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if not found:
        pytest.skip(f"none of {', '.join(BROWSERS)} in PATH, and no CHROMIUM in the environment")
    (tmp_path / "probed.html").write_text(made[0].read_text() + PROBE)
    (tmp_path / "frame.html").write_text(f"<title></title>{FRAME.format(width=width)}")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--dump-dom"]
    flags += ["--virtual-time-budget=10000", f"--user-data-dir={tmp_path / 'profile'}"]
    flags += ["--window-size=1400,1000", "--host-resolver-rules=MAP * ~NOTFOUND"]
    command = [found, *flags, (tmp_path / "frame.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)[1]
    seen = json.loads(html.unescape(title))
    assert seen["space"] == width and seen["width"] <= width  # nothing is to be scrolled sideways
    assert len(seen["pictures"]) >= 2 and all(seen["pictures"])
    left, right, top, height = seen["answer"]
    assert 0 <= left < right <= width and 0 < top < 300 and height >= 16
    assert seen["fetched"] == []
    assert np.isfinite(seen["answer"]).all()
