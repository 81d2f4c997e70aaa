"""What the check says against what Detectron2 does, and against plain loops."""

import math

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from detectron2.structures import BoxMode
from models import config
from PIL import Image
from torch.utils.data import Dataset

from ohem_d2.tools.data.faults import Needs, image_faults, record_faults
from ohem_d2.tools.data.mapper import TrainingMapper, map_record
from ohem_d2.tools.data.records import needs_of, training_records
from ohem_d2.tools.errors import InputError

WIDTH, HEIGHT = 64, 48
RLE = {"counts": b"0PP3", "size": [HEIGHT, WIDTH]}


def records(folder, boxes, mode=BoxMode.XYWH_ABS):
    """Images of three boxes each; every fourth box is a crowd."""
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "a.png")
    annotations = [
        {"bbox": list(box), "bbox_mode": mode, "category_id": i % 3, "iscrowd": int(i % 4 == 3)}
        for i, box in enumerate(boxes)
    ]
    image = {"file_name": str(folder / "a.png"), "width": WIDTH, "height": HEIGHT}
    parts = [annotations[i : i + 3] for i in range(0, len(annotations), 3)]
    return [{**image, "image_id": i, "annotations": part} for i, part in enumerate(parts)]


def boxes_of_all_kinds(num=300):
    """Some are all right; others have numbers that no box has, or are somewhere else."""
    rng = np.random.default_rng(0)
    boxes = rng.uniform(-80, 130, (num, 4)).round(1)
    boxes[rng.random((num, 4)) < 0.05] = 0
    boxes[rng.random((num, 4)) < 0.02] = math.nan
    boxes[rng.random((num, 4)) < 0.02] = math.inf
    return boxes.tolist()


@pytest.mark.parametrize("mode", [BoxMode.XYWH_ABS, BoxMode.XYXY_ABS])
def test_what_is_left_out_is_what_detectron2_leaves_out(tmp_path, mode):
    data = records(tmp_path, boxes_of_all_kinds(), mode)
    faults, objects = record_faults(data, Needs(3))
    assert len(faults) == 3 and not any(fault.stops for fault in faults)
    mapper = TrainingMapper(config("fpn"), is_train=True, augmentations=[])
    instances = [map_record(mapper, record)["instances"] for record in data]
    assert objects == sum(map(len, instances)) > 20
    kinds, good_crowds = {"not finite": 0, "without an area": 0, "outside": 0}, 0
    for annotation in (a for record in data for a in record["annotations"]):
        x0, y0, x1, y1 = annotation["bbox"]
        if mode == BoxMode.XYWH_ABS:
            x1, y1 = x0 + x1, y0 + y1
        if not all(map(math.isfinite, (x0, y0, x1, y1))):
            kinds["not finite"] += 1
        elif x1 <= x0 or y1 <= y0:
            kinds["without an area"] += 1
        elif x1 <= 0 or y1 <= 0 or x0 >= WIDTH or y0 >= HEIGHT:
            kinds["outside"] += 1
        else:
            good_crowds += annotation["iscrowd"]
    assert sum(len(i.ignore_regions.boxes) for i in instances) == good_crowds > 5
    for (kind, number), fault in zip(kinds.items(), faults):
        assert kind in fault.what and len(fault.where) == number > 5


def test_numbers_of_any_type_are_numbers(tmp_path):
    data = records(tmp_path, [(1, 2, 30, 20)] * 3)
    first, second, third = data[0]["annotations"]
    first.update(bbox=np.float32([1, 2, 3, 4]), category_id=np.int64(1), bbox_mode=1)
    second.update(bbox=(1, 2.5, 3, 4), iscrowd=False, category_id=2.0)
    third.update(bbox=[0, 0, 9, 9, 45.0], bbox_mode=BoxMode.XYWHA_ABS)
    assert record_faults(data, Needs(3)) == ([], 3)
    del data[0]["width"], data[0]["height"]  # as some have it, and the boxes are not outside then
    first["bbox"] = [1e6, 2, 3, 4]
    assert record_faults(data, Needs(3)) == ([], 3)


def test_what_a_model_needs(tmp_path):
    data = records(tmp_path, [(1, 2, 30, 20)] * 3)
    data[0]["annotations"][1]["segmentation"] = [[1, 2, 3, 4, 5, 6]]
    data[0]["annotations"][2]["keypoints"] = [1, 2, 2] * 17
    data[0]["annotations"][2]["segmentation"] = np.ones((HEIGHT, WIDTH), bool)
    (masks, keypoints), _ = record_faults(data, Needs(3, masks=True, keypoints=17))
    assert len(masks.where) == 1 and len(keypoints.where) == 2
    (classes,), _ = record_faults(data, Needs(2))
    assert "category_id" in classes.what and "from 0 to 1" in classes.what and classes.stops


@pytest.mark.parametrize("shape", [[[1.0, 2, 30, 2, 30, 20]], RLE])
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
        expected = []
    except InputError:
        expected = [3]
    faults, _ = record_faults(data, needs_of(cfg, training=True))
    assert [len(fault.where) for fault in faults] == expected
    assert all(fault.stops and "INPUT.MASK_FORMAT bitmask" in str(fault) for fault in faults)
    assert (expected == []) == (kind == "bitmask" or isinstance(shape, list))
    assert record_faults(data, needs_of(cfg, training=False)) == ([], 3)


def test_places_are_named_without_what_moves_the_cursor(tmp_path):
    data = records(tmp_path, [(1, 2, 0, 20)])
    data[0]["file_name"] = str(tmp_path / "\x1b]0;owned\x07\nb.png")
    for fault in record_faults(data, Needs(3))[0]:
        assert str(fault).isprintable() and r"/\x1b]0;owned\x07\nb.png" in fault.where[0]


def test_proposals(tmp_path):
    data = records(tmp_path, [(1, 2, 30, 20)] * 6)
    boxes = np.zeros((5, 4), np.float32)
    for record, count, value in zip(data, (5, 5), (0, np.nan)):
        logits = np.full(count, value, np.float32)
        record.update(proposal_boxes=boxes, proposal_objectness_logits=logits)
    (fault,), _ = record_faults(data, Needs(3))
    assert "proposals" in fault.what and len(fault.where) == 1


def test_images_are_read_in_full(tmp_path):
    data = records(tmp_path, [(1, 2, 30, 20)])
    assert image_faults(data * 3, "BGR") == []
    picture = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content[: len(content) // 2])
    (fault,) = image_faults(data * 3, "BGR")
    assert fault.stops and len(fault.where) == 3 and "a.png: " in fault.where[0]


class Streamed(Dataset):
    def __len__(self):
        return 2


@pytest.mark.parametrize("data", [Streamed(), [], [{"file_name": "x"}]])
def test_data_sets_of_other_kinds(data):
    """PyTorch's own pass as they are; what is empty, or has no annotations, is told."""
    DatasetCatalog.register("of another kind", lambda: data)
    cfg = config("fpn", "DATASETS.TRAIN", ("of another kind",))
    try:
        if isinstance(data, Dataset):
            found, left_out = training_records(cfg)
            assert isinstance(found, Dataset) and left_out == []
        else:
            with pytest.raises(InputError, match="of another kind.* (is empty|not there)"):
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
            found, left_out = training_records(cfg)
            assert len(found) == left and left_out == []
    finally:
        DatasetCatalog.remove("half crowds")
