"""The experiments: what is run and recorded, and that all of them can be set up."""

import json
import sys

import processes
import pytest
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from models import ROOT

from ohem_d2.tools.load_model import default_cfg
from ohem_d2.tools.trust import merge_file
from projects.evidence import evidence
from projects.evidence.experiments import Setup

HEADS = "MODEL.ROI_HEADS"


@pytest.fixture(scope="module")
def boards(tree_crowns, tmp_path_factory):
    """A folder such as `--data boards=` takes, of a few of the demo's photographs."""
    folder = tmp_path_factory.mktemp("boards")
    full = json.loads((tree_crowns / "train.json").read_text())
    categories = [{"id": i, "name": f"defect {i}"} for i in range(1, 7)]
    by_image = {image["id"]: [] for image in full["images"]}
    for box in full["annotations"]:
        by_image[box["image_id"]].append(box)
    with_boxes = [i for i in full["images"] if len(by_image[i["id"]]) >= 4][:4]
    for name, images, has_boxes in (
        ("instances_train", with_boxes[:2], True),
        ("instances_test", with_boxes[2:], True),
        ("templates_train", with_boxes[2:3], False),
        ("templates_test", with_boxes[3:], False),
    ):
        boxes = [box for i in images for box in by_image[i["id"]]] if has_boxes else []
        coco = {"images": images, "annotations": boxes, "categories": categories}
        (folder / f"{name}.json").write_text(json.dumps(coco))
    for name in ("images", "templates"):
        (folder / name).symlink_to(tree_crowns / "tiles")
    return folder


def test_a_commit_is_told_where_there_is_git(monkeypatch):
    assert evidence.commit() == "" or len(evidence.commit()) >= 7
    monkeypatch.setenv("PATH", "")
    assert evidence.commit() == ""


def test_quick_runs_are_recorded_and_not_repeated(boards, tmp_path, monkeypatch, capsys):
    table = {
        "random": Setup(f"{HEADS}.NAME StandardROIHeads"),
        "OHEM": Setup(f"{HEADS}.NAME OHEMROIHeads", missing=0.5, with_negatives=True),
    }
    monkeypatch.setitem(evidence.TABLES, "main", table)
    record = tmp_path / "evidence.json"
    arguments = ["--data", f"boards={boards}", "--tables", "main", "--seeds", "3", "--quick"]
    arguments += ["--output", str(tmp_path / "runs"), "--record", str(record), "--threads", "1"]
    arguments += ["--devices", "cpu", "cpu"]
    monkeypatch.setattr(sys, "argv", ["evidence.py", *arguments])
    monkeypatch.setenv("PYTHONPATH", processes.python_path(ROOT))
    evidence.main()
    ohem, random = json.loads(record.read_text())
    assert (random["variant"], random["seed"], random["iterations"]) == ("random", 3, 2)
    assert (ohem["missing"], ohem["with_negatives"]) == (0.5, True) and "missing" not in random
    for found in (ohem, random):
        assert 0 <= found["AP"] <= found["AP50"] <= 100
        # two iterations find no 80 % of the objects
        assert "false_alarms" not in found
        folder = next(tmp_path.glob(f"runs/boards/{found['variant']}-*/seed3"))
        assert found["commit"] == (folder / "commit").read_text() == evidence.commit()
    used = json.loads((tmp_path / "runs/missing/boards_0.5_3.json").read_text())
    full = json.loads((boards / "instances_train.json").read_text())
    assert len(used["annotations"]) == round(len(full["annotations"]) / 2)
    config = CfgNode.load_yaml_with_base(
        str(next(tmp_path.glob("runs/boards/OHEM-*/seed3/config.yaml")))
    )
    trained_on = [name.split(":")[1].rsplit("/", 1)[-1] for name in config["DATASETS"]["TRAIN"]]
    assert trained_on == ["boards_0.5_3.json", "templates_train.json"]
    assert config["DATALOADER"]["FILTER_EMPTY_ANNOTATIONS"] is False
    table = capsys.readouterr().out
    assert f"| OHEM | 1 | {ohem['AP']:.1f} |" in table

    monkeypatch.setattr(sys, "argv", [*sys.argv, "--show"])
    evidence.main()  # with both the records and what they are of
    assert json.loads(record.read_text()) == [ohem, random]
    monkeypatch.setattr(sys, "argv", sys.argv[:-1])
    capsys.readouterr()
    for folder in tmp_path.glob("runs/boards/*"):
        folder.rename(tmp_path / folder.name)
    evidence.main()  # on another machine, say, with the records alone
    assert "run 1 of" not in capsys.readouterr().out
    assert not list(tmp_path.glob("runs/boards/*"))


def test_the_same_boxes_of_a_seed_are_missing():
    coco = {"images": [], "annotations": [{"id": i} for i in range(50)]}
    left = evidence.without_boxes(coco, 0.4, 1)["annotations"]
    assert len(left) == 30 and left == sorted(left, key=lambda box: box["id"])
    assert left == evidence.without_boxes(coco, 0.4, 1)["annotations"]
    assert left != evidence.without_boxes(coco, 0.4, 2)["annotations"]


def test_every_variant_of_every_table_can_be_set_up(boards, tmp_path, monkeypatch):
    """Configurations that the present heads refuse, or data that lacks what they ask for."""
    asked = []
    meanwhile = {"data": "moon", "variant": "x", "overrides": [], "seed": 1}

    def run_all(variants, *_):
        asked.extend(variants)
        evidence.write(tmp_path / "quick.json", [meanwhile])  # as another process does
        return []

    monkeypatch.setattr(evidence.runs, "run_all", run_all)
    arguments = ["--data", f"boards={boards}", f"plates={boards}", "--quick"]
    monkeypatch.setattr(sys, "argv", ["evidence.py", *arguments, "--output", str(tmp_path)])
    evidence.main()
    # what is published is left alone, and so is what others recorded
    assert json.loads((tmp_path / "quick.json").read_text()) == [meanwhile]
    with_negatives, built = set(), set()
    for number, variant in enumerate(asked):
        folder = tmp_path / f"run{number}"
        variant.command(1, "cpu", folder)
        cfg = default_cfg(evidence.MODULES)
        merge_file(cfg, folder / "given.yaml")
        cfg.MODEL.DEVICE = "cpu"
        if str(cfg.MODEL) not in built:
            build_model(cfg)
            built.add(str(cfg.MODEL))
        if len(cfg.DATASETS.TRAIN) > 1:
            with_negatives.add(variant.name.partition("/")[0])
    assert len(asked) > 40
    # plates have no images without objects: such variants are left out
    assert with_negatives == {"boards"}


def test_unknown_data_is_refused():
    for text in ("moon=somewhere", "boards"):
        with pytest.raises(SystemExit, match="boards=FOLDER, plates=FOLDER, trees=FOLDER"):
            evidence.data_of(text)
