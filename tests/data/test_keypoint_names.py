import pytest
from detectron2.data import DatasetCatalog
from detectron2.data.datasets.builtin_meta import (
    COCO_PERSON_KEYPOINT_FLIP_MAP,
    COCO_PERSON_KEYPOINT_NAMES,
)
from detectron2.data.detection_utils import create_keypoint_hflip_indices
from models import config

from ohem_d2.tools.data.coco import Category
from ohem_d2.tools.data.keypoint_names import keypoint_metadata
from ohem_d2.tools.data.mapper import TrainingMapper
from ohem_d2.tools.data.records import training_records
from ohem_d2.tools.errors import InputError

COCO = {
    "keypoint_names": COCO_PERSON_KEYPOINT_NAMES,
    "keypoint_flip_map": COCO_PERSON_KEYPOINT_FLIP_MAP,
}


def test_of_coco_as_detectron2_has_them():
    names = list(COCO_PERSON_KEYPOINT_NAMES)
    person, child = Category(1, "person", names), Category(2, "child", list(names))
    assert keypoint_metadata([person]) == COCO
    assert keypoint_metadata([Category(3, "cat"), person, child]) == COCO


@pytest.mark.parametrize(
    "names, pairs",
    [
        (["tip", "tail"], ()),
        (["Right Paw", "nose", "Left Paw"], (("Right Paw", "Left Paw"),)),
        (["eyeLeft", "eyeRight"], (("eyeLeft", "eyeRight"),)),
        (["left_eye", "right_ear"], None),
        (["left_eye", "Right_eye"], None),
    ],
)
def test_sides_are_paired(names, pairs):
    expected = {"keypoint_names": tuple(names), "keypoint_flip_map": pairs}
    found = keypoint_metadata([Category(1, "animal", names)])
    assert found == {key: value for key, value in expected.items() if value is not None}


@pytest.mark.parametrize("names", [None, [], 5, "nose", [1, 2], ["a", "a"], [["a"]], {"a": 1}])
def test_what_names_no_keypoints(names):
    assert keypoint_metadata([Category(1, "animal", names)]) == {}
    others = [Category(1, "animal", ["a"]), Category(2, "plant", names or ["b"])]
    assert keypoint_metadata(others) == {}


def test_images_without_objects_have_no_names_of_keypoints():
    """Beside Detectron2's own data; and a test has no use for them."""
    cfg = config("keypoint")
    cfg.DATASETS.TRAIN = ("images:folder", "keypoints_coco_2017_train", "images:other")
    before = cfg.clone()
    mapper = TrainingMapper(cfg, is_train=True)
    assert mapper.use_keypoint and cfg == before
    assert mapper.keypoint_hflip_indices == create_keypoint_hflip_indices(cfg.DATASETS.TRAIN[1])
    cfg.DATASETS.TRAIN = ("images:folder", "coco_2017_train")
    with pytest.raises(InputError, match="coco_2017_train: .* metadata need keypoint_names"):
        TrainingMapper(cfg, is_train=True)
    TrainingMapper(cfg, is_train=False)


def test_images_without_objects_need_no_keypoints(tmp_path):
    """They stay, in their places, unless empty images are left out; of people some have to show."""
    person = {"bbox": [1, 2, 30, 20], "bbox_mode": 1, "category_id": 0, "iscrowd": 0}
    shown, hidden = ({**person, "keypoints": [5, 5, v] * 17} for v in (2, 0))
    crowd = {**hidden, "iscrowd": 1}
    (tmp_path / "a.jpg").touch()
    image = {"file_name": str(tmp_path / "a.jpg"), "width": 64, "height": 48}
    of_images = [[], [shown], [hidden], [crowd], [hidden, crowd], [shown, crowd], []]
    records = [{**image, "image_id": i, "annotations": a} for i, a in enumerate(of_images)]
    DatasetCatalog.register("some empty", lambda: records)
    try:
        for filtered, left in ((True, [1, 5]), (False, [0, 1, 3, 5, 6])):
            keys = ("DATALOADER.FILTER_EMPTY_ANNOTATIONS", filtered)
            cfg = config("keypoint", *keys, "DATASETS.TRAIN", ("some empty",))
            found, _ = training_records(cfg)
            assert [record["image_id"] for record in found] == left
    finally:
        DatasetCatalog.remove("some empty")
