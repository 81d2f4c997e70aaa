"""The comparisons: what a run measures, and what the tables make of it."""

import json
import shutil
import sys

import processes
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from models import ROOT

from projects.evidence import evidence, run
from projects.evidence.experiments import CONFIGS, Setup
from projects.evidence.iou_balanced import balanced
from projects.tree_crowns import prepare_data
from projects.tree_crowns.trainer import setup

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
    assert run.commit() == "" or len(run.commit()) >= 7
    monkeypatch.setenv("PATH", "")
    assert run.commit() == ""


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
        assert found["commit"] == (folder / "commit").read_text() == run.commit()
    used = json.loads(next(tmp_path.glob("runs/boards/OHEM-*/seed3/train.json")).read_text())
    full = json.loads((boards / "instances_train.json").read_text())
    assert len(used["annotations"]) == round(len(full["annotations"]) / 2)
    config = CfgNode.load_yaml_with_base(
        str(next(tmp_path.glob("runs/boards/OHEM-*/seed3/config.yaml")))
    )
    trained_on = [name.split(":")[1].rsplit("/", 1)[-1] for name in config["DATASETS"]["TRAIN"]]
    assert trained_on == ["train.json", "templates_train.json"]
    assert config["DATALOADER"]["FILTER_EMPTY_ANNOTATIONS"] is False
    table = capsys.readouterr().out
    assert f"| OHEM | 1 | {ohem['AP']:.2f} |" in table

    monkeypatch.setattr(sys, "argv", [*sys.argv, "--show"])
    evidence.main()  # with both the records and what they are of
    assert json.loads(record.read_text()) == [ohem, random]
    monkeypatch.setattr(sys, "argv", sys.argv[:-1])
    capsys.readouterr()
    for folder in tmp_path.glob("runs/boards/*"):
        folder.rename(tmp_path / folder.name)
    evidence.main()  # on another machine, say, with the records alone
    assert "running" not in capsys.readouterr().out
    assert not list(tmp_path.glob("runs/boards/*"))


def test_the_same_boxes_of_a_seed_are_missing():
    coco = {"images": [], "annotations": [{"id": i} for i in range(50)]}
    left = run.without_boxes(coco, 0.4, 1)["annotations"]
    assert len(left) == 30 and left == sorted(left, key=lambda box: box["id"])
    assert left == run.without_boxes(coco, 0.4, 1)["annotations"]
    assert left != run.without_boxes(coco, 0.4, 2)["annotations"]


@pytest.mark.parametrize("recall, score", [(0.5, 0.7), (0.75, 0.2), (1.0, 0.0)])
def test_the_score_that_finds_a_share_of_the_objects(recall, score, tmp_path):
    """Four objects; three are found, one of them as another class; two detections are wrong."""
    places = [[0, 0, 10, 10], [20, 0, 10, 10], [40, 0, 10, 10], [60, 0, 10, 10]]
    boxes = [
        {"id": i + 1, "image_id": 1, "category_id": 1, "bbox": b, "area": 100, "iscrowd": 0}
        for i, b in enumerate(places)
    ]
    categories = [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}]
    truth = {"images": [{"id": 1, "height": 99, "width": 99}], "categories": categories}
    (tmp_path / "truth.json").write_text(json.dumps({"info": {}, **truth, "annotations": boxes}))
    found = [
        (places[0], 1, 0.9),
        ([0, 50, 10, 10], 1, 0.8),
        (places[1], 2, 0.7),
        ([50, 50, 10, 10], 1, 0.3),
        (places[2], 1, 0.2),
    ]
    keys = ("bbox", "category_id", "score")
    found = [{"image_id": 1, **dict(zip(keys, values))} for values in found]
    (tmp_path / "found.json").write_text(json.dumps(found))
    threshold = run.score_that_finds(tmp_path / "truth.json", tmp_path / "found.json", recall)
    assert threshold == pytest.approx(score)
    (tmp_path / "found.json").write_text("[]")
    assert run.score_that_finds(tmp_path / "truth.json", tmp_path / "found.json", recall) == 0


def test_what_is_published_is_what_was_recorded(tmp_path, monkeypatch, capsys):
    records = tmp_path / "evidence.json"
    shutil.copy(ROOT / "docs/evidence.json", records)
    arguments = ["--data", "boards=.", "plates=.", "trees", "--show", "--record", str(records)]
    monkeypatch.setattr(sys, "argv", ["evidence.py", *arguments, "--output", str(tmp_path)])
    evidence.main()
    assert records.read_text() == (ROOT / "docs/evidence.json").read_text()
    every_table, overview = capsys.readouterr().out.rsplit("\nmain\n", 1)
    for shown, pages in (
        (every_table, ["docs/evidence.md"]),
        (overview, ["README.md", "docs/does-it-help.md"]),
    ):
        rows = [line for line in shown.splitlines() if line.startswith("| ")]
        assert len(rows) >= 5
        for page in pages:
            published = (ROOT / page).read_text().splitlines()
            # but for the heads, where data sets have longer names
            assert not [r for r in rows if r not in published and not r.startswith("| AP |")]


def test_every_variant_of_every_table_can_be_set_up(boards, tmp_path, monkeypatch):
    """Configurations that the present heads refuse, or data that lacks what they ask for."""
    asked = []
    meanwhile = {"data": "moon", "variant": "x", "settings": "0", "seed": 1}

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
    for variant in asked:
        given = json.loads(variant.command(1, "cpu", tmp_path / "run")[-1])
        assert given["data"] == "boards" or "with_negatives" not in given["others"]
        cfg = setup(
            str(CONFIGS / f"{given['data']}.yaml"),
            prepare_data.DATA,
            tmp_path / "run",
            1,
            given["overrides"],
        )
        build_model(cfg)
    assert len(asked) > 40


def test_images_without_objects_are_asked_of_data_that_has_some(tmp_path, monkeypatch):
    arguments = ["--data", "plates=.", "--tables", "negatives", "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["evidence.py", *arguments])
    with pytest.raises(SystemExit, match="negatives: plates has no images without objects"):
        evidence.main()


def test_background_is_balanced_over_the_overlap():
    iou = torch.cat([torch.zeros(900), torch.full((50,), 0.25), torch.full((5,), 0.45)])
    chosen = balanced(iou, 96)
    assert len(set(chosen.tolist())) == len(chosen) == 96
    parts = [int((iou[chosen] == value).sum()) for value in (0.0, 0.25, 0.45)]
    assert parts[2] == 5 and parts[1] >= 32 and parts[0] >= 32
    assert len(balanced(iou[:10], 96)) == 10 and len(balanced(iou[:0], 96)) == 0


def test_unknown_data_is_refused():
    for text in ("moon=somewhere", "boards"):
        with pytest.raises(SystemExit, match="boards=FOLDER, plates=FOLDER, trees=FOLDER"):
            evidence.data_of(text)
