"""Each rule of the table: what breaks it, where, and that nothing else is said; clean data is."""

import ast
import copy
import math
import re

import numpy as np
import pytest
from detectron2.structures import BoxMode
from models import ROOT
from PIL import Image
from scenes import (
    RULES,
    by_rule,
    coco_found,
    coco_scene,
    rule_of,
    voc_scene,
    write_coco,
    write_images,
)

from ohem_d2.tools.data.coco import coco_records, read_coco
from ohem_d2.tools.data.contents import Needs
from ohem_d2.tools.data.records import shared_images
from ohem_d2.tools.data.rules import TABLE, Fault, faults_of, stop_at_first
from ohem_d2.tools.data.voc import voc_faults
from ohem_d2.tools.errors import InputError

THEN = ("stops", "left out", "mended", "told")


def test_the_table():
    assert sum(map(len, TABLE.values())) == len(RULES)  # no name twice
    for name, rule in RULES.items():
        assert {"then", "what"} <= rule.keys() <= {"then", "what", "remedy"}, name
        assert rule["then"] in THEN and rule["what"][0].islower(), name
        # What is done in the place of the user, or asked of him, is said.
        assert rule.get("remedy") or rule["then"] in ("stops", "left out"), name
        assert not re.search(r"[.,;:]$", rule["what"] + rule.get("remedy", "")), name
    assert len({rule["what"] for rule in RULES.values()}) == len(RULES)


def test_the_table_has_what_the_code_finds_and_nothing_else():
    used, literals = set(), set()
    for file in (ROOT / "ohem_d2/tools").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                literals.add(node.value)
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if called in ("faults_of", "self.fault") and isinstance(node.args[0], ast.Constant):
                used.add(node.args[0].value)
    assert used <= RULES.keys() and len(used) > 20
    assert RULES.keys() <= literals
    with pytest.raises(KeyError):
        faults_of("no such rule", ["here"])


def test_what_is_said():
    assert faults_of("too many", [], most=7) == []
    (fault,) = faults_of("too many", ["a.jpg: 9", "b\x1b.jpg: 8"], most=7)
    assert not fault.stops and str(fault) == (
        "2 images with more objects than TEST.DETECTIONS_PER_IMAGE, which is 7, such as a.jpg: 9. "
        "The others cannot be found: raise it"
    )
    assert fault.where[1] == r"b\x1b.jpg: 8"
    (fault,) = faults_of("no area", ["a.jpg"])
    assert str(fault) == "1 boxes without an area, which are left out, such as a.jpg"
    stop_at_first("mine", [fault])
    with pytest.raises(InputError, match="^mine: 1 things, such as here$"):
        stop_at_first("mine", [fault, Fault("things", ["here"])])


# ---- data in COCO format -------------------------------------------------------------------------


@pytest.fixture
def scene(tmp_path):
    return coco_scene(tmp_path)


def edit(part, *places, **values):
    """Rows of the file have these values; those of None they lack."""

    def change(scene, folder):
        for i in places or range(len(scene[part])):
            scene[part][i].update(copy.deepcopy(values))
            for key in [key for key, value in values.items() if value is None]:
                del scene[part][i][key]

    return change


def boxes(*box, places=(1,), **more):
    return edit("annotations", *places, bbox=list(box), area=box[2] * box[3], **more)


def crowds(*places):
    return edit("annotations", *places, iscrowd=1)


def append(part, place, **values):
    def change(scene, folder):
        scene[part].append({**scene[part][place], **values})

    return change


def each(*changes):
    return lambda scene, folder: [change(scene, folder) for change in changes]


def unlabelled(scene, folder):
    del scene["annotations"]


def depth(scene, folder):
    for i, kind in enumerate((np.uint16, np.int32, np.float32)):
        image = Image.fromarray(np.full((48, 64), 300, kind))
        image.save(folder / f"images/{i}.tif")
        scene["images"][i]["file_name"] = f"{i}.tif"


def another_size(scene, folder):
    write_images(folder / "images", ["2.png"], (20, 30))
    (folder / "images/1.png").write_bytes(b"")


def gone(scene, folder):
    (folder / "images/1.png").unlink()
    scene["images"][2]["file_name"] = ""


MASKS, POLYGONS = Needs(2, masks=True), Needs(2, masks=True, polygons=True)
JOINTS = Needs(2, keypoints=2)
RLE = {"counts": [0, 48 * 64], "size": [48, 64]}
NAN, INF = math.nan, math.inf

# By rule: how the scene is spoilt, the places that are said, further arguments of coco_found
OF_FILES = {
    "id twice": (append("categories", 0, name="cow"), ["id 1"], {}),
    "id kinds": (
        each(edit("images", 1, id="b"), edit("annotations", 2, 3, image_id="b")),
        ["'b'"],
        {},
    ),
    "unknown category": (
        edit("annotations", 0, 5, category_id=9),
        ["9, annotations[0] of 0.png", "9, annotations[5] of 2.png"],
        {},
    ),
    "unknown image": (edit("annotations", 4, image_id=9), ["annotations[4] of image 9"], {}),
    "same class": (edit("categories", 0, name="dog"), ["'dog'"], {}),
    "ignored": (
        edit("annotations", 0, 3, ignore=1),
        ["annotations[0] of 0.png", "annotations[3] of 1.png"],
        {},
    ),
    "flat polygon": (
        edit("annotations", 2, segmentation=[1, 2, 30, 2, 30, 20]),
        ["annotations[2] of 1.png"],
        {},
    ),
    "no extent": (
        edit("annotations", 2, area=0),
        ["annotations[2] of 1.png: [4.0, 7.0, 21.0, 17.0]"],
        {},
    ),
    "bad ids": (
        each(
            edit("annotations", 0, id=0),
            edit("annotations", 2, id="a"),
            edit("annotations", 3, id=2),
            edit("annotations", 4, id=None),
            edit("annotations", 5, id=0.5),
        ),
        [
            "annotations[0] of 0.png: 0",
            "annotations[1] of 0.png: 2",
            "annotations[2] of 1.png: 'a'",
            "annotations[3] of 1.png: 2",
            "annotations[4] of 2.png: None",
            "annotations[5] of 2.png: 0.5",
        ],
        {},
    ),
    "bad area": (
        each(
            edit("annotations", 0, area=None),
            edit("annotations", 1, area=NAN),
            edit("annotations", 2, area=-5),
            edit("annotations", 3, area="357"),
            edit("annotations", 4, area=500),
            edit("annotations", 5, area=392),  # as much as rounding makes of 21 x 17
        ),
        [
            "annotations[0] of 0.png: None",
            "annotations[1] of 0.png: nan",
            "annotations[2] of 1.png: -5",
            "annotations[3] of 1.png: '357'",
            "annotations[4] of 2.png: 500",
        ],
        {},
    ),
    "other area": (
        each(
            edit("annotations", 0, segmentation=[], area=100),
            edit("annotations", 1, segmentation=None, area=340),
            edit("annotations", 2, area=100),
        ),
        ["annotations[0] of 0.png: 100, and 357 of the box"],
        {},
    ),
    "no iscrowd": (edit("annotations", 5, iscrowd=None), ["annotations[5] of 2.png"], {}),
    "no num keypoints": (
        each(
            edit("annotations", 3, num_keypoints=None),
            edit("annotations", 4, num_keypoints=None, keypoints=None),
        ),
        ["annotations[3] of 1.png"],
        {},
    ),
    "missing image": (gone, ["images/", "images/1.png"], {}),
    "image twice": (edit("images", 2, file_name="0.png"), ["images/0.png"], {}),
    "no size": (
        each(
            edit("images", 0, width=None, height=None),
            edit("images", 1, width=0, height=0),
            lambda scene, folder: scene["images"][2].update(width=None),
        ),
        ["0.png", "1.png", "2.png"],
        {},
    ),
    "bad size": (edit("images", 2, width=-1), ["images/2.png: (-1, 48)"], {}),
    "bad crowd": (edit("annotations", 1, iscrowd=2), ["images/0.png: 2"], {}),
    "not finite": (
        each(boxes(1, NAN, 9, 9), boxes(1, 1, INF, 9, places=(4,))),
        ["images/0.png: [1.0, nan, 9.0, 9.0]", "images/2.png: [1.0, 1.0, inf, 9.0]"],
        {},
    ),
    "no area": (
        each(boxes(9, 9, 0, 5), boxes(9, 9, 5, -5, places=(2,))),
        ["images/0.png: [9.0, 9.0, 0.0, 5.0]", "images/1.png: [9.0, 9.0, 5.0, -5.0]"],
        {},
    ),
    "outside": (
        each(boxes(64, 9, 5, 5), boxes(9, -5, 5, 5, places=(2,))),
        ["images/0.png: [64.0, 9.0, 5.0, 5.0]", "images/1.png: [9.0, -5.0, 5.0, 5.0]"],
        {},
    ),
    "far out": (
        each(boxes(30, 20, 45, 9), boxes(30, 20, 42, 9, places=(2,))),
        ["images/0.png: [30.0, 20.0, 45.0, 9.0]"],
        {},
    ),
    "below a pixel": (
        boxes(0.1, 0.2, 0.3, 0.4, places=(0, 1, 2, 3)),
        [f"images/{i // 2}.png: [0.1, 0.2, 0.3, 0.4]" for i in range(4)],
        {},
    ),
    "only crowds": (crowds(2, 3, 5), ["images/1.png"], {}),
    "crowds": (crowds(2, 5), ["images/1.png", "images/2.png"], {}),
    "no mask": (
        each(
            edit("annotations", 0, segmentation=[[1, 2, 3, 4]]),
            edit("annotations", 1, segmentation=[]),
            edit("annotations", 2, segmentation=None),
            edit("annotations", 3, segmentation=[[]]),
            edit("annotations", 4, segmentation=[[1, 2, 3, 4], [1, 2, 3, 4, 5, 6]]),
            edit("annotations", 5, segmentation=RLE),
        ),
        [
            "images/0.png: [[1, 2, 3, 4]]",
            "images/0.png: None",
            "images/1.png: None",
            "images/1.png: [[]]",
        ],
        {"needs": MASKS},
    ),
    "rle": (
        edit("annotations", 5, segmentation=RLE),
        [f"images/2.png: {RLE}"],
        {"needs": POLYGONS},
    ),
    "bad rle": (
        edit("annotations", 5, segmentation={"size": [48, 64]}),
        ["images/2.png: {'size': [48, 64]}"],
        {"needs": MASKS},
    ),
    "no keypoints": (
        each(edit("annotations", 0, keypoints=[1, 2, 2]), edit("annotations", 3, keypoints=[])),
        ["images/0.png: [1.5, 2.5, 2.0]", "images/1.png: None"],
        {"needs": JOINTS},
    ),
    "bad image": (
        another_size,
        ["images/1.png: cannot identify", "images/2.png: Mismatched image shape"],
        {},
    ),
    "saturated": (depth, ["images/0.tif: I;16", "images/1.tif: I", "images/2.tif: F"], {}),
    "no annotations": (unlabelled, ["labels.json"], {}),
    "too many": (
        append("annotations", 0, id=7),
        ["images/0.png: 3"],
        {"overrides": ["TEST.DETECTIONS_PER_IMAGE", 2]},
    ),
    "absent class": (edit("annotations", 0, 2, 4, category_id=4), ["cat"], {}),
}
# What is said of these as well, and is right
ALSO = {"no extent": {"bad area"}, "bad size": {"bad image"}}


def assert_places(found, expected, folder):
    """Each begins as it should, whatever the folder."""
    found = [place.replace(f"{folder}/", "") for place in found]
    assert len(found) == len(expected), found
    assert all(place.startswith(e) for place, e in zip(found, expected)), found


@pytest.mark.parametrize("rule", OF_FILES)
def test_a_rule_of_files(rule, scene, tmp_path):
    spoil, expected, how = OF_FILES[rule]
    spoil(scene, tmp_path)
    found = coco_found(tmp_path, scene, **how)
    assert_places(found.pop(rule), expected, tmp_path)
    assert found.keys() == ALSO.get(rule, set())


def test_only_objects_are_told_to_be_marked_as_ignored(scene, tmp_path):
    """Some tools write ``ignore: 1`` beside ``iscrowd: 1``."""
    edit("annotations", 0, 3, ignore=1, iscrowd=1, segmentation=RLE)(scene, tmp_path)
    assert "ignored" not in coco_found(tmp_path, scene)


@pytest.mark.parametrize("needs", [Needs(2), MASKS, POLYGONS, JOINTS])
def test_of_clean_data_nothing_is_said(needs, scene, tmp_path):
    assert coco_found(tmp_path, scene, needs=needs) == {}
    crowd = {**scene["annotations"][0], "id": 99, "iscrowd": 1, "segmentation": RLE}
    scene["annotations"] = scene["annotations"] * 4 + [crowd]  # a crowd among 25
    for i, annotation in enumerate(scene["annotations"]):
        scene["annotations"][i] = {**annotation, "id": i + 1}
    scene["info"], scene["licenses"] = {"year": 2017}, [{"id": 1}]
    assert coco_found(tmp_path, scene, needs=needs) == {}


# ---- records, as somebody's code registers them --------------------------------------------------


def proposals(records):
    for record, last in zip(records, (9, NAN, 9)):
        record["proposal_boxes"] = np.float32([[0, 0, 9, last]])
        record["proposal_objectness_logits"] = np.float32([0])
    records[2]["proposal_objectness_logits"] = np.float32([0, 1])


def change(record=None, annotation=None):
    def of(records):
        records[1].update(record or {})
        records[1]["annotations"][0].update(annotation or {})

    return of


OF_RECORDS = {
    "no file name": (change({"file_name": None}), ["{"]),
    "remote image": (change({"file_name": "https://x.org/a.png"}), ["https://x.org/a.png"]),
    "bad class": (change(annotation={"category_id": 2}), ["images/1.png: 2"]),
    "bad mode": (change(annotation={"bbox_mode": BoxMode.XYWH_REL}), ["images/1.png: "]),
    "bad box": (change(annotation={"bbox": [1, 2, 3]}), ["images/1.png: [1, 2, 3]"]),
    "bad proposals": (proposals, ["images/1.png", "images/2.png"]),
}


@pytest.mark.parametrize("rule", OF_RECORDS)
def test_a_rule_of_records(rule, scene, tmp_path):
    spoil, expected = OF_RECORDS[rule]
    found = coco_found(tmp_path, scene, spoil)
    assert_places(found.pop(rule), expected, tmp_path)
    assert found == {}


# ---- training and test together ------------------------------------------------------------------


def test_images_of_the_test_that_are_trained_on(scene, tmp_path, monkeypatch):
    """By where they lie, whatever they are called."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "images")
    training = coco_records(read_coco(write_coco(tmp_path, scene).split(":")[1]), "images")
    assert by_rule(shared_images(training[:1], training[1:])) == {}
    others = [{"file_name": f"other/{i}.png"} for i in range(3)]
    assert by_rule(shared_images(training, others)) == {}
    for name in ("images/1.png", str(tmp_path / "images/1.png"), "link/1.png", "./images/1.png"):
        found = by_rule(shared_images(training, [*others, {"file_name": name}]))
        assert found == {"trained on": [name]}


# ---- data in Pascal VOC format -------------------------------------------------------------------


def flags(folder):
    (folder / "ImageSets/Main/train.txt").write_text("000001 -1\n000002  1\n")


def broken(folder):
    (folder / "Annotations/000002.xml").write_text("<annotation>")


OF_VOC = {
    "bad annotations": (broken, [], ["Annotations/000002.xml is not XML"]),
    "difficult": (None, [("dog", 5, 7, 25, 23, True)], ["dog of 000002"]),
    "from zero": (None, [("dog", 0, 7, 25, 23), ("cat", 5, 7.5, 25, 23)], ["000002"]),
    "odd list": (flags, [], ["ImageSets/Main/train.txt"]),
}


@pytest.mark.parametrize("rule", OF_VOC)
def test_a_rule_of_voc_files(rule, tmp_path):
    spoil, objects, expected = OF_VOC[rule]
    folder = voc_scene(tmp_path)
    assert voc_faults(str(folder), "train", first=1, difficult=False) == []
    if objects:
        voc_scene(tmp_path, objects={"000002": objects})
    else:
        spoil(folder)
    found = by_rule(voc_faults(str(folder), "train", first=1, difficult=False))
    assert_places(found.pop(rule), expected, tmp_path)
    assert found == {}
    # who says that it is so is told no more
    found = by_rule(voc_faults(str(folder), "train", first=0, difficult=True))
    assert (rule in found) == (rule in ("bad annotations", "odd list"))


def test_each_rule_is_tried():
    tried = [*OF_FILES, *OF_RECORDS, *OF_VOC, "trained on"]
    assert sorted(tried) == sorted(RULES)
    assert rule_of(faults_of("crowds", ["x"], num=1, all=2)[0]) == "crowds"
