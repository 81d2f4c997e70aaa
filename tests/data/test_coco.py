"""COCO files as they are found, against Detectron2's own reader."""

import copy
import json
import os
import random

import pytest
from detectron2.data import MetadataCatalog
from detectron2.data.datasets import load_coco_json
from pycocotools.coco import COCO
from scenes import by_rule, coco_scene, write_coco

from ohem_d2.tools.data.coco import (
    class_numbers,
    coco_faults,
    coco_records,
    mended_for_evaluation,
    read_coco,
)
from ohem_d2.tools.errors import InputError

RLE = {"counts": [0, 48 * 64], "size": [48, 64]}


@pytest.fixture
def scene(tmp_path):
    return coco_scene(tmp_path, 4)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "labels.json"


def records_of(folder, scene):
    write_coco(folder, scene)
    return coco_records(read_coco(folder / "labels.json"), str(folder / "images"))


def detectron2s(folder):
    records = load_coco_json(str(folder / "labels.json"), str(folder / "images"), "of a test")
    MetadataCatalog.remove("of a test")
    for annotation in (a for record in records for a in record["annotations"]):
        annotation.setdefault("iscrowd", 0)
    return records


def spread(scene):
    """Ids with gaps and out of order, crowds, an image without objects, masks of both kinds."""
    scene = copy.deepcopy(scene)
    random.Random(0).shuffle(scene["annotations"])
    scene["categories"].reverse()
    scene["images"].reverse()
    scene["annotations"] = [a for a in scene["annotations"] if a["image_id"] != 2]
    scene["annotations"][0].update(iscrowd=1, segmentation={"counts": "0PP3", "size": [48, 64]})
    del scene["annotations"][1]["segmentation"], scene["annotations"][2]["keypoints"]
    del scene["annotations"][3]["iscrowd"]
    scene["annotations"][4].update(segmentation=[], bbox=[1, 2.25, 3, 4.5])
    return scene


def test_records_are_those_of_detectron2(scene, file, tmp_path):
    scene = spread(scene)
    found = records_of(tmp_path, scene)
    expected = detectron2s(tmp_path)
    assert found == expected
    assert all(type(x) is float for r in found for a in r["annotations"] for x in a["bbox"])
    assert [len(record["annotations"]) for record in found] == [2, 0, 2, 2]


def test_masks_that_are_none_do_not_take_the_box_with_them(scene, file, tmp_path):
    """Detectron2's reader leaves such objects out, of box models as well."""
    for i, polygons in enumerate([[[1, 2, 3, 4]], [[]], [[1, 2], [3, 4]]]):
        scene["annotations"][i]["segmentation"] = polygons
    found = records_of(tmp_path, scene)
    theirs = detectron2s(tmp_path)
    assert [len(r["annotations"]) for r in theirs] == [0, 1, 2, 2]
    assert [len(r["annotations"]) for r in found] == [2, 2, 2, 2]
    for record, other in zip(found[2:], theirs[2:]):
        assert record["annotations"] == other["annotations"]


def test_a_flat_polygon_is_one_polygon(scene, tmp_path):
    flat = [1, 2, 30, 2, 30, 20]
    scene["annotations"][0]["segmentation"] = flat
    scene["annotations"][1]["segmentation"] = [flat]
    annotations = records_of(tmp_path, scene)[0]["annotations"]
    assert [a["segmentation"] for a in annotations] == [[flat], [flat]]


def test_classes_are_numbered_by_their_ids(scene, tmp_path):
    for ids, expected in (([9, 2], {2: 0, 9: 1}), (["b", "a"], {"a": 0, "b": 1})):
        for category, i in zip(scene["categories"], ids):
            category["id"] = i
        write_coco(tmp_path, scene)
        assert class_numbers(read_coco(tmp_path / "labels.json")) == expected


@pytest.mark.parametrize(
    "change, place",
    [
        (
            lambda c: c["annotations"][3].update(bbox=[1, 2, 3]),
            r"length >= 4 - at `\$.annotations\[3",
        ),
        (lambda c: c["annotations"][3].update(bbox=[1, 2, 3, "4"]), r"\$.annotations\[3\].bbox\[3"),
        (lambda c: c["annotations"][3].update(bbox=[1, 2, 3, None]), r"\$.annotations\[3\].bbox"),
        (lambda c: c["annotations"][3].pop("bbox"), r"`bbox` - at `\$.annotations\[3\]`"),
        (lambda c: c["annotations"][3].pop("category_id"), r"`category_id` - at `\$.annotations"),
        (lambda c: c["annotations"][3].update(segmentation=7), r"\$.annotations\[3\].segmentation"),
        (lambda c: c["annotations"][3].update(keypoints=["a"]), r"\[3\].keypoints\[0\]"),
        (lambda c: c["images"][1].pop("file_name"), r"`file_name` - at `\$.images\[1\]`"),
        (lambda c: c["images"][1].update(file_name=7), r"\$.images\[1\].file_name"),
        (lambda c: c["categories"][1].update(name=None), r"\$.categories\[1\].name"),
        (lambda c: c.pop("images"), "`images`"),
        (lambda c: c.update(categories=[]), r"length >= 1 - at `\$.categories`"),
    ],
)
def test_what_is_no_coco_is_named_with_its_place(scene, file, tmp_path, change, place):
    change(scene)
    write_coco(tmp_path, scene)
    with pytest.raises(InputError, match=f"labels.json is not in COCO format: .*{place}") as error:
        read_coco(file)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_only_python_writes(scene, file, tmp_path, value):
    scene["annotations"][1]["bbox"][2] = scene["annotations"][2]["area"] = float(value)
    write_coco(tmp_path, scene)
    assert value in file.read_text()
    found = read_coco(file)
    assert str(found.annotations[1].bbox[2]) == str(float(value))
    scene["annotations"][0]["bbox"] = "x"  # and what is wrong beside them is named as ever
    write_coco(tmp_path, scene)
    with pytest.raises(InputError, match=r"labels.json .*\$.annotations\[0\].bbox"):
        read_coco(file)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_marks_of_the_encoding(scene, file, encoding):
    """As some editors write; pycocotools reads no such file."""
    scene["categories"][0]["name"] = "Bär"
    file.write_text(json.dumps(scene, ensure_ascii=False), encoding)
    assert read_coco(file).categories[0].name == "Bär" and list(coco_faults(read_coco(file))) == []
    content, mended = mended_for_evaluation(file)
    assert content == scene and mended == []


def test_a_file_that_changes_is_read_again(scene, file, tmp_path):
    write_coco(tmp_path, scene)
    first = read_coco(file)
    assert read_coco(str(file)) is first
    scene["annotations"].pop()
    write_coco(tmp_path, scene)
    os.utime(file, ns=(10**18, 10**18))
    assert len(read_coco(file).annotations) == len(first.annotations) - 1
    file.unlink()
    with pytest.raises(InputError, match="labels.json does not exist"):
        read_coco(file)


@pytest.mark.parametrize("given", [None, 0, "missing"])
def test_a_size_that_is_not_given_is_that_of_the_image(scene, file, tmp_path, given):
    """Label Studio and datumaro leave it open where they do not have the images at hand."""
    expected = records_of(tmp_path, scene)
    for image in scene["images"][1:]:
        image.update(width=given, height=given)
        if given == "missing":
            del image["width"], image["height"]
    (tmp_path / "images/3.png").unlink()
    found = records_of(tmp_path, scene)
    assert found[:3] == expected[:3]
    assert {**found[3], "width": 64, "height": 48} == expected[3] and "width" not in found[3]
    content, mended = mended_for_evaluation(file, True, str(tmp_path / "images"))
    assert [(i["width"], i["height"]) for i in content["images"][:3]] == [(64, 48)] * 3
    assert content["annotations"] == scene["annotations"] and mended == []


# ---- for the evaluation --------------------------------------------------------------------------


def test_a_sound_file_is_evaluated_as_it_is(scene, file, tmp_path):
    write_coco(tmp_path, scene)
    for masks in (False, True):
        assert mended_for_evaluation(file, masks) == (None, [])
    del scene["annotations"]
    write_coco(tmp_path, scene)
    assert mended_for_evaluation(file) == (None, [])


def test_what_is_mended_is_only_what_is_wrong(scene, file, tmp_path):
    for i, (key, value) in enumerate({"id": 0, "area": -1, "iscrowd": None}.items()):
        scene["annotations"][i][key] = value
    del scene["annotations"][2]["iscrowd"], scene["annotations"][3]["num_keypoints"]
    scene["annotations"][4]["keypoints"] = [1, 2, 0, 3, 4, 1]
    scene["annotations"][5]["own"] = {"a": [1]}
    write_coco(tmp_path, scene)
    before = file.read_bytes()
    content, mended = mended_for_evaluation(file)
    assert set(by_rule(mended)) == {"bad ids", "bad area", "no iscrowd", "no num keypoints"}
    expected = copy.deepcopy(scene)
    for i, annotation in enumerate(expected["annotations"]):
        annotation["id"] = i + 1
    expected["annotations"][1]["area"] = 21 * 17
    expected["annotations"][2]["iscrowd"] = 0
    expected["annotations"][3]["num_keypoints"] = 2
    assert content == expected and file.read_bytes() == before


def test_ids_are_numbered_anew_all_or_none(scene, file, tmp_path):
    for i, annotation in enumerate(scene["annotations"]):
        annotation["id"] = 900 - i
    write_coco(tmp_path, scene)
    assert mended_for_evaluation(file)[0] is None
    for wrong in (0, -3, "7", None, 2.5, 2**70, True, [1], 900):
        scene["annotations"][5]["id"] = wrong
        write_coco(tmp_path, scene)
        content, (fault,) = mended_for_evaluation(file)
        assert [a["id"] for a in content["annotations"]] == list(range(1, 9))
        assert len(fault.where) == (2 if wrong == 900 else 1)


def test_what_is_left_out_is_not_evaluated(scene, file, tmp_path):
    scene["annotations"][0]["bbox"] = [5, 5, -3, 3]
    scene["annotations"][1]["bbox"] = [5, 5, float("nan"), 3]
    scene["annotations"][2]["bbox"] = [64, 5, 3, 3]
    scene["annotations"][3]["image_id"] = 77
    write_coco(tmp_path, scene)
    content, mended = mended_for_evaluation(file)
    assert [a["id"] for a in content["annotations"]] == [5, 6, 7, 8] and mended == []


def test_masks_for_the_evaluation(scene, file, tmp_path):
    """pycocotools fails on those that are none, and takes four numbers for a box."""
    triangle = [1, 2, 30, 2, 30, 20]
    crowd = {"iscrowd": 1, "bbox": [1, 2, 3, 4], "area": 12}
    given = [triangle, [triangle, [1, 2, 3, 4]], [[1, 2, 3, 4]], [], None, RLE, None, [triangle]]
    for annotation, segmentation in zip(scene["annotations"], given):
        annotation["segmentation"] = segmentation
    scene["annotations"][6].update(crowd)
    del scene["annotations"][4]["segmentation"]
    write_coco(tmp_path, scene)
    assert mended_for_evaluation(file, masks=False)[0] is None
    content, mended = mended_for_evaluation(file, masks=True)
    box = [[1, 2, 4, 2, 4, 6, 1, 6]]
    left = {1: [triangle], 2: [triangle], 6: RLE, 7: box, 8: [triangle]}
    assert {a["id"]: a["segmentation"] for a in content["annotations"]} == left and mended == []
    (tmp_path / "mended.json").write_text(json.dumps(content))
    api = COCO(str(tmp_path / "mended.json"))
    assert [api.annToMask(a).sum() > 0 for a in api.anns.values()] == [True] * 5
