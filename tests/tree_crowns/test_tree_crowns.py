"""The demo: its data, and the comparison that it asks for."""

import json
import shutil
import subprocess

import numpy as np
import pytest

from ohem_d2.tools import cli
from projects.tree_crowns import demo, prepare_data
from projects.tree_crowns.prepare_data import crowns_on_tile


def test_data(tree_crowns):
    train = json.loads((tree_crowns / "train.json").read_text())
    test = json.loads((tree_crowns / "test.json").read_text())

    def photographs(coco):
        return {image["file_name"].rsplit("_", 2)[0] for image in coco["images"]}

    assert photographs(train).isdisjoint(photographs(test)) and len(photographs(test)) == 3
    for coco in (train, test):
        sizes = {i["id"]: (i["width"], i["height"]) for i in coco["images"]}
        for a in coco["annotations"]:
            x, y, w, h = a["bbox"]
            width, height = sizes[a["image_id"]]
            assert x >= 0 and y >= 0 and w > 0 and h > 0 and x + w <= width and y + h <= height
    # Test tiles share no pixel, so every crown with its larger part on one is there once.
    num_crowns = sum(not a["iscrowd"] for a in test["annotations"])
    assert 370 <= num_crowns <= 279 + 61 + 37 + 5


def test_a_wheel_that_is_there_is_not_downloaded(tree_crowns, tmp_path, monkeypatch):
    folder = shutil.copytree(tree_crowns / "wheels", tmp_path / "wheels")
    monkeypatch.setattr(subprocess, "run", lambda *_: pytest.fail("downloads"))
    wheel = prepare_data.fetch(folder)
    assert wheel.name.startswith("deepforest-")

    # one that is damaged does not count
    wheel.write_bytes(wheel.read_bytes()[:-1])
    monkeypatch.setattr(subprocess, "run", lambda *_: subprocess.CompletedProcess(_, 1))
    with pytest.raises(SystemExit, match="put the wheel of .*requirements-data.txt into .*wheels"):
        prepare_data.fetch(folder)


def test_parts_of_crowns_at_the_edge():
    crowns = np.array([[10.0, 10, 30, 30], [90, 0, 112, 10], [95, 40, 125, 50], [200, 0, 210, 9]])
    found = list(crowns_on_tile(crowns, 0, 0, 100, 60))
    assert found == [
        ([10.0, 10.0, 20.0, 20.0], False),
        ([90.0, 0.0, 10.0, 10.0], True),
        ([95.0, 40.0, 5.0, 10.0], True),
    ]
    (shifted,) = crowns_on_tile(crowns[:1], 20, 5, 100, 60)
    assert shifted == ([0.0, 5.0, 10.0, 20.0], False)


def test_demo(tree_crowns, monkeypatch):
    """A comparison on its data, of one seed unless more is asked for."""
    asked = []
    monkeypatch.setattr("ohem_d2.tools.compare.run", asked.append)
    cli.main(demo.arguments([]))
    cli.main(demo.arguments(["--seeds", "3", "--samplers", "ohem:64", "--", "SEED", "7"]))
    default, more = asked
    folder = tree_crowns / "tiles"
    assert default.train_data == [f"coco:{tree_crowns / 'train.json'}:{folder}"]
    assert default.test_data == [f"coco:{tree_crowns / 'test.json'}:{folder}"]
    assert (default.seeds, default.samplers) == (1, ["random:128", "ohem:128"])
    assert default.output == prepare_data.ROOT / "output/tree_crowns"
    assert (more.seeds, more.samplers, more.opts) == (3, ["ohem:64"], ["SEED", "7"])
