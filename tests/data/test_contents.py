"""What is said of records against what is trained on, against Detectron2 and plain loops."""

import copy
import math
import warnings

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from detectron2.structures import BoxMode
from models import config
from PIL import Image
from pycocotools import mask as mask_util
from scenes import by_rule
from torch.utils.data import Dataset

from ohem_d2.tools.data.contents import Needs, go_over, image_faults
from ohem_d2.tools.data.mapper import TrainingMapper, map_record
from ohem_d2.tools.data.records import check_records, needs_of, training_records
from ohem_d2.tools.errors import InputError

WIDTH, HEIGHT = 64, 48
RLE = {"counts": b"0PP3", "size": [HEIGHT, WIDTH]}
UNCOMPRESSED = {"counts": [48, 96, 48 * 64 - 144], "size": [HEIGHT, WIDTH]}
TRIANGLE = [1.0, 2, 30, 2, 30, 20]


def records(folder, boxes, mode=BoxMode.XYWH_ABS):
    """Images of three boxes each; every fourth box is a crowd."""
    annotations = [
        {"bbox": list(box), "bbox_mode": mode, "category_id": i % 3, "iscrowd": int(i % 4 == 3)}
        for i, box in enumerate(boxes)
    ]
    data = []
    for i in range(0, len(annotations), 3):
        image = {"file_name": str(folder / f"{i // 3}.png"), "width": WIDTH, "height": HEIGHT}
        data.append({**image, "image_id": i // 3, "annotations": annotations[i : i + 3]})
        Image.new("RGB", (WIDTH, HEIGHT)).save(image["file_name"])
    return data


def boxes_of_all_kinds(num=300):
    """Some are all right; others have numbers that no box has, or are somewhere else."""
    rng = np.random.default_rng(0)
    boxes = rng.uniform(-80, 130, (num, 4)).round(1)
    boxes[rng.random((num, 4)) < 0.05] = 0
    boxes[rng.random((num, 4)) < 0.02] = math.nan
    boxes[rng.random((num, 4)) < 0.02] = math.inf
    return boxes.tolist()


@pytest.mark.parametrize("mode", [BoxMode.XYWH_ABS, BoxMode.XYXY_ABS])
def test_what_is_said_to_be_left_out_is_left_out(tmp_path, mode):
    data = records(tmp_path, boxes_of_all_kinds(), mode)
    before = copy.deepcopy(data)
    kept, faults, objects = go_over(data, Needs(3))
    assert str(data) == str(before)  # NaN is not equal to itself
    left_out = {name: where for name, where in by_rule(faults).items() if "crowd" not in name}
    kinds = {"not finite": 0, "no area": 0, "outside": 0, "far out": 0}
    expected = [[] for _ in data]
    for i, annotation in ((i, a) for i, record in enumerate(data) for a in record["annotations"]):
        x0, y0, x1, y1 = annotation["bbox"]
        if mode == BoxMode.XYWH_ABS:
            x1, y1 = x0 + x1, y0 + y1
        if not all(map(math.isfinite, (x0, y0, x1, y1))):
            kinds["not finite"] += 1
        elif x1 <= x0 or y1 <= y0:
            kinds["no area"] += 1
        elif x1 <= 0 or y1 <= 0 or x0 >= WIDTH or y0 >= HEIGHT:
            kinds["outside"] += 1
        else:
            expected[i].append(annotation)
            far = x1 > 1.1 * WIDTH + 2 or y1 > 1.1 * HEIGHT + 2
            kinds["far out"] += far or x0 < -0.1 * WIDTH - 2 or y0 < -0.1 * HEIGHT - 2
    assert {name: len(where) for name, where in left_out.items()} == kinds
    assert min(kinds.values()) > 5
    assert [record["annotations"] for record in kept] == expected
    assert objects == sum(not a["iscrowd"] for some in expected for a in some) > 20
    mapper = TrainingMapper(config("fpn"), is_train=True, augmentations=[])
    instances = [map_record(mapper, record)["instances"] for record in kept]
    assert sum(map(len, instances)) == objects
    regions = sum(len(i.ignore_regions.boxes) for i in instances)
    assert regions == sum(a["iscrowd"] for some in expected for a in some) > 5
    # None of them comes back turned round.
    for record, found in zip(kept, instances):
        shown = [a["bbox"] for a in record["annotations"] if not a["iscrowd"]]
        corners = [BoxMode.convert(box, mode, BoxMode.XYXY_ABS) for box in shown]
        limits = [(0, 0, 0, 0), (WIDTH, HEIGHT, WIDTH, HEIGHT)]
        expected_boxes = np.clip(np.reshape(corners, (-1, 4)), *limits)
        np.testing.assert_allclose(found.gt_boxes.tensor.numpy(), expected_boxes, atol=1e-4)


def test_numbers_of_any_type_are_numbers(tmp_path):
    data = records(tmp_path, [(1, 2, 30, 20)] * 3)
    first, second, third = data[0]["annotations"]
    first.update(bbox=np.float32([1, 2, 3, 4]), category_id=np.int64(1), bbox_mode=1)
    second.update(bbox=(1, 2.5, 3, 4), iscrowd=False, category_id=2.0)
    third.update(bbox=[0, 0, 9, 9, 45.0], bbox_mode=BoxMode.XYWHA_ABS)
    assert go_over(data, Needs(3)) == (data, [], 3)
    del data[0]["width"], data[0]["height"]  # as some have it, and the boxes are not outside then
    first["bbox"] = [1e6, 2, 3, 4]
    assert go_over(data, Needs(3)) == (data, [], 3)


@pytest.mark.parametrize("value", ["1", None, [1], {}, 10**400, math.nan], ids=lambda v: str(v)[:9])
def test_numbers_that_are_none(tmp_path, value):
    data = records(tmp_path, [(1, 2, 30, 20)] * 6)
    first, second = data[0]["annotations"][1], data[1]["annotations"][1]
    first["category_id"] = second["bbox_mode"] = value
    assert set(by_rule(go_over(data, Needs(3))[1])) == {"bad class", "bad mode", "crowds"}
    second["bbox_mode"], first["category_id"] = BoxMode.XYWH_ABS, 0
    first["bbox"], second["iscrowd"] = [1, 2, 3, value], value
    rule = "not finite" if value is math.nan else "bad box"
    assert set(by_rule(go_over(data, Needs(3))[1])) == {rule, "bad crowd", "crowds"}


def test_what_a_model_needs(tmp_path):
    data = records(tmp_path, [(1, 2, 30, 20)] * 3)
    data[0]["annotations"][1]["segmentation"] = [TRIANGLE]
    data[0]["annotations"][2]["keypoints"] = [1, 2, 2] * 17
    data[0]["annotations"][2]["segmentation"] = np.ones((HEIGHT, WIDTH), bool)
    kept, (masks, keypoints), objects = go_over(data, Needs(3, masks=True, keypoints=17))
    assert len(masks.where) == 1 and len(keypoints.where) == 2 and keypoints.stops
    assert kept[0]["annotations"] == data[0]["annotations"][1:] and objects == 2
    (classes,) = go_over(data, Needs(2))[1]
    assert "category_id" in classes.what and "from 0 to 1" in classes.what and classes.stops


@pytest.mark.parametrize("shape", [[TRIANGLE], RLE])
@pytest.mark.parametrize("kind", ["polygon", "bitmask"])
def test_masks_of_another_kind_than_the_mapper_takes(tmp_path, shape, kind):
    """Crowds, which it drops, have any; a test, whose mapper drops all, as well."""
    data = records(tmp_path, [(1, 2, 30, 20)] * 4)
    for annotation in (a for record in data for a in record["annotations"]):
        annotation["segmentation"] = shape
    data[1]["annotations"][0]["segmentation"] = RLE  # a crowd
    cfg = config("mask", "INPUT.MASK_FORMAT", kind, "MODEL.ROI_HEADS.NUM_CLASSES", 3)
    try:
        for record in data:
            map_record(TrainingMapper(cfg, is_train=True, augmentations=[]), record)
        expected = {}
    except InputError:
        expected = {"rle": 3}
    found = by_rule(go_over(data, needs_of(cfg, training=True))[1])
    found.pop("only crowds")
    assert {name: len(where) for name, where in found.items()} == expected
    assert (expected == {}) == (kind == "bitmask" or isinstance(shape, list))
    kept, faults, objects = go_over(data, needs_of(cfg, training=False))
    assert kept == data and objects == 3 and set(by_rule(faults)) == {"only crowds"}


POLYGONS = {
    "two points": ([[1, 2, 3, 4]], None),
    "empty": ([[]], None),
    "none": ([], None),
    "no list": (5, None),
    "text": ("abc", None),
    "one of two": ([[1, 2, 3, 4], TRIANGLE], [TRIANGLE]),
    "odd": ([TRIANGLE, [1, 2, 3, 4, 5, 6, 7]], [TRIANGLE]),
    "flat": (TRIANGLE, [TRIANGLE]),
    "arrays": ([np.array(TRIANGLE)], [TRIANGLE]),
}


@pytest.mark.parametrize("name", POLYGONS)
def test_polygons_that_are_none(tmp_path, name):
    """A box model keeps the object; of a mask model what is left of its mask is trained on."""
    given, left = POLYGONS[name]
    data = records(tmp_path, [(1, 2, 30, 20)] * 3)
    for annotation in data[0]["annotations"]:
        annotation["segmentation"] = [TRIANGLE]
    data[0]["annotations"][1]["segmentation"] = given
    kept, faults, objects = go_over(data, Needs(3))
    assert kept == data and faults == [] and objects == 3
    kept, faults, objects = go_over(data, Needs(3, masks=True, polygons=True))
    assert objects == (2 if left is None else 3)
    found = [a["segmentation"] for a in kept[0]["annotations"]]
    expected = [[TRIANGLE], *([left] if left else []), [TRIANGLE]]
    assert [[list(p) for p in polygons] for polygons in found] == expected
    assert [len(fault.where) for fault in faults] == ([1] if left is None else [])
    mapper = TrainingMapper(config("mask", "INPUT.MASK_FORMAT", "polygon"), augmentations=[])
    (record,) = kept
    assert len(map_record(mapper, record)["instances"].gt_masks) == objects


def test_rle_that_is_not_compressed(tmp_path):
    data = records(tmp_path, [(1, 2, 30, 20)] * 3)
    for annotation in data[0]["annotations"]:
        annotation["segmentation"] = copy.deepcopy(UNCOMPRESSED)
    kept, faults, _ = go_over(data, Needs(3, masks=True))
    assert faults == []
    mask = mask_util.decode(kept[0]["annotations"][0]["segmentation"])
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[:, 1:3] = 1
    np.testing.assert_array_equal(mask, expected)
    assert data[0]["annotations"][0]["segmentation"] == UNCOMPRESSED


def test_places_are_named_without_what_moves_the_cursor(tmp_path):
    data = records(tmp_path, [(1, 2, 0, 20)])
    data[0]["file_name"] = str(tmp_path / "\x1b]0;owned\x07\nb.png")
    faults = go_over(data, Needs(3))[1]
    assert len(faults) == 2
    for fault in faults:
        assert str(fault).isprintable() and r"/\x1b]0;owned\x07\nb.png" in fault.where[0]


@pytest.mark.parametrize("of_files", [(), ("0.JPG", "0.jpg.png", "00.png")])
def test_what_may_be_meant_by_a_file_that_is_not_there(tmp_path, monkeypatch, of_files):
    monkeypatch.chdir(tmp_path)
    data = records(tmp_path, [(1, 2, 30, 20)] * 3)
    (tmp_path / "sub").mkdir()
    for name in (*of_files, "sub/0.png"):
        (tmp_path / name).write_bytes((tmp_path / "0.png").read_bytes())
    for name, hint in {
        "0.jpg": f"; there is {'0.JPG' if of_files else '0.png'}",
        "0.PNG": f"; there is {'0.JPG' if of_files else '0.png'}",
        "sub\\0.png": ", whose backslashes are no folders here; there is sub/0.png",
        "no\\0.png": "",
        "https://example.org/0.png.jpg": None,
        "images/https://example.org/0.png": (
            ", which has an address in it: put the images into a folder"
        ),
        "9.png": "",
        "no/0.png": "",
    }.items():
        data[0]["file_name"] = name
        found = by_rule(go_over(data, Needs(3))[1])
        expected = {"missing image": [f"{name}{hint}"]}
        assert found == (expected if hint is not None else {"remote image": [name]}), name


def test_few_regions_to_ignore_are_nothing_to_say(tmp_path):
    """COCO has them in 12 of 1,000 annotations."""
    data = records(tmp_path, [(1, 2, 30, 20)] * 120)
    for i, annotation in enumerate(a for record in data for a in record["annotations"]):
        annotation["iscrowd"] = int(i < 6)
    found = by_rule(go_over(data[2:], Needs(3))[1])
    assert found == {}
    data[0]["annotations"][0]["iscrowd"] = 0
    assert set(by_rule(go_over(data, Needs(3))[1])) == {"only crowds"}
    data[1]["annotations"][0]["iscrowd"] = 0
    assert by_rule(go_over(data, Needs(3))[1]) == {}  # 4 of 120
    data[5]["annotations"][0]["iscrowd"] = data[6]["annotations"][0]["iscrowd"] = 1
    data[7]["annotations"][0]["iscrowd"] = 1
    (fault,) = go_over(data, Needs(3))[1]
    assert "7 of 120 annotations have iscrowd: 1" in fault.remedy and len(fault.where) == 5


@pytest.mark.parametrize("data", [[], [{"file_name": "a.png", "annotations": []}]])
def test_data_without_annotations(tmp_path, monkeypatch, data):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (9, 9)).save("a.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for needs in (Needs(3), Needs(3, masks=True, keypoints=5)):
            assert go_over(data, needs) == (data, [], 0)


def test_images_are_read_in_full(tmp_path):
    data = records(tmp_path, [(1, 2, 30, 20)])
    assert list(image_faults(data * 3, "BGR")) == []
    picture = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "0.png")
    content = (tmp_path / "0.png").read_bytes()
    (tmp_path / "0.png").write_bytes(content[: len(content) // 2])
    (fault,) = image_faults(data * 3, "BGR")
    assert fault.stops and len(fault.where) == 3 and "0.png: " in fault.where[0]


class Streamed(Dataset):
    def __len__(self):
        return 2


@pytest.mark.parametrize("data", [Streamed(), [], [{"file_name": "x"}], [{"image_id": 1}]])
def test_data_sets_of_other_kinds(data):
    """PyTorch's own pass as they are; what is empty, or has no annotations, is told."""
    DatasetCatalog.register("of another kind", lambda: data)
    cfg = config("fpn", "DATASETS.TRAIN", ("of another kind",))
    try:
        if isinstance(data, Dataset):
            found, notes = training_records(cfg)
            assert isinstance(found, Dataset) and notes == []
        else:
            with pytest.raises(InputError, match="of another kind.* (is empty|not there|a file_n)"):
                training_records(cfg)
    finally:
        DatasetCatalog.remove("of another kind")


def test_images_that_a_training_leaves_out(tmp_path):
    data = records(tmp_path, [(1, 2, 30, 20)] * 6)
    for annotation in data[1]["annotations"]:
        annotation["iscrowd"] = 1
    DatasetCatalog.register("half crowds", lambda: data)
    try:
        for filtered, left in ((True, 1), (False, 2)):
            key = ("DATALOADER.FILTER_EMPTY_ANNOTATIONS", filtered)
            cfg = config("fpn", *key, "DATASETS.TRAIN", ("half crowds",))
            found, (note,) = training_records(cfg)
            assert len(found) == left and "1.png. 3 of 6 annotations have iscrowd: 1" in note
        for annotation in data[0]["annotations"]:
            annotation["bbox"] = [5, 5, -2, 9]
        said = "no object is left to train on; .* 3 boxes without an area.*; .* 3 of 6 annotations"
        with pytest.raises(InputError, match=said):
            training_records(cfg)
    finally:
        DatasetCatalog.remove("half crowds")


def test_images_of_16_bits_are_told_at_the_start(tmp_path):
    """Of a sample of them; of all by --check."""
    data = records(tmp_path, [(1, 2, 30, 20)] * 300)
    deep = np.full((HEIGHT, WIDTH), 3000, np.uint16)
    for record in data[::2]:
        Image.fromarray(deep).save(record["file_name"])
    kept, faults, _ = check_records(config("fpn"), "mine", data, training=True)
    (places,) = [where for name, where in by_rule(faults).items() if name == "saturated"]
    assert 5 < len(places) < 50 and "0.png: I;16" in places[0] and len(kept) == 100
