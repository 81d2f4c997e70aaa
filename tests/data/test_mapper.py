"""Whole numbers are trained on exactly like the same numbers as floats."""

import copy

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from models import config

from ohem_d2 import CrowdDatasetMapper
from ohem_d2.tools.load_data import image_mapper

HEIGHT, WIDTH = 80, 100
AUGMENTATIONS = {
    "ResizeShortestEdge": lambda: T.ResizeShortestEdge((37, 53), 120, "range"),
    "Resize": lambda: T.Resize((61, 47)),
    "ResizeScale": lambda: T.ResizeScale(0.4, 1.7, 90, 90),
    "RandomResize": lambda: T.RandomResize([(61, 47), (33, 41)]),
    "RandomApply": lambda: T.RandomApply(T.Resize((61, 47)), 0.7),
    "RandomFlip": lambda: T.RandomFlip(prob=1.0),
    "vertical RandomFlip": lambda: T.RandomFlip(prob=1.0, horizontal=False, vertical=True),
    "RandomCrop": lambda: T.RandomCrop("relative_range", (0.6, 0.6)),
    "absolute RandomCrop": lambda: T.RandomCrop("absolute", (63, 71)),
    "FixedSizeCrop": lambda: T.FixedSizeCrop((95, 90)),
    "RandomRotation": lambda: T.RandomRotation([-30, 30]),
    "RandomExtent": lambda: T.RandomExtent((0.7, 1.4), (0.2, 0.2)),
}
# They leave coordinates as they are, or take more than a mapper gives them.
OTHERS = {"RandomBrightness", "RandomContrast", "RandomSaturation", "RandomLighting"}
OTHERS |= {"MinIoURandomCrop", "RandomCrop_CategoryAreaConstraint"}


def test_no_augmentation_is_forgotten():
    known = {name for name, value in vars(T).items() if isinstance(value, type)}
    known = {name for name in known if issubclass(getattr(T, name), T.Augmentation)}
    tried = {name.split()[-1] for name in AUGMENTATIONS} | OTHERS
    assert known - tried <= {"Augmentation", "AugmentationList", "TransformGen"}
    assert len(known & tried) > 12


@pytest.fixture
def image(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "image.png"), pixels)
    return {"file_name": str(tmp_path / "image.png"), "height": HEIGHT, "width": WIDTH}


def mixed(numbers):
    return [float(x) if i % 2 else x for i, x in enumerate(numbers)]


KINDS = {
    "floats": lambda numbers: list(map(float, numbers)),
    "whole": list,
    "mixed": mixed,
    "a tuple": tuple,
    "an array": np.array,
}


def record(image, kind, mode=BoxMode.XYWH_ABS):
    """Objects of 7 to 23 pixels, and crowd regions, with the same numbers in one of the ways."""
    rng, make, annotations = np.random.default_rng(1), KINDS[kind], []
    for i in range(12):
        x, y, w, h = rng.integers((0, 0, 7, 7), (WIDTH - 25, HEIGHT - 25, 24, 24)).tolist()
        if i == 11:
            x, y = WIDTH - 5, HEIGHT - 5  # reaches beyond the image
        box = (x, y, w, h) if mode == BoxMode.XYWH_ABS else (x, y, x + w, y + h)
        polygons = [(x, y, x + w, y, x + w, y + h), (x, y, x, y + h, x + w, y + h)]
        points = [v for k in range(17) for v in (x + k % w, y + k % h, 2)]
        annotations.append(
            {
                "bbox": make(box),
                "bbox_mode": mode,
                "category_id": i,
                "iscrowd": int(i % 4 == 3),
                # Detectron2 takes no tuple for them.
                "segmentation": [(list if kind == "a tuple" else make)(p) for p in polygons],
                "keypoints": make(points),
            }
        )
    return {**image, "annotations": annotations}


def mapped(mapper, record):
    np.random.seed(7)
    before = copy.deepcopy(record)
    instances = mapper(record)["instances"]
    assert str(record) == str(before)
    return instances


def everything(augmentations, mapper=CrowdDatasetMapper, masks=True):
    return mapper(
        is_train=True,
        augmentations=augmentations,
        image_format="BGR",
        use_instance_mask=masks,
        use_keypoint=True,
        keypoint_hflip_indices=np.arange(17)[::-1].copy(),
    )


def assert_same(found, expected):
    assert torch.equal(found.gt_boxes.tensor, expected.gt_boxes.tensor) and len(found) > 3
    assert torch.equal(found.gt_classes, expected.gt_classes)
    assert torch.equal(found.gt_keypoints.tensor, expected.gt_keypoints.tensor)
    if expected.has("gt_masks"):
        for ours, theirs in zip(found.gt_masks.polygons, expected.gt_masks.polygons):
            assert [p.tolist() for p in ours] == [p.tolist() for p in theirs]


@pytest.mark.parametrize("mode", [BoxMode.XYWH_ABS, BoxMode.XYXY_ABS])
@pytest.mark.parametrize("scale", [0.4, 0.75, 1.5])
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_whole_numbers_are_floats(image, name, scale, mode):
    size = round(HEIGHT * scale), round(WIDTH * scale)
    how = {"masks": "Crop" not in name}  # To cut polygons Detectron2 takes another library.
    mapper = everything([AUGMENTATIONS[name](), T.Resize(size)], **how)
    plain = everything([AUGMENTATIONS[name](), T.Resize(size)], DatasetMapper, **how)
    expected = mapped(plain, record(image, "floats", mode))
    regions = None
    for kind in KINDS:
        found = mapped(mapper, record(image, kind, mode))
        assert_same(found, expected)
        crowds = found.ignore_regions.boxes.tensor
        assert regions is None or torch.equal(crowds, regions)
        regions = crowds
    assert len(regions) > 0 and not torch.equal(regions, regions.round())


@pytest.mark.parametrize("scale, iou", [(0.4, 0.85), (0.75, 0.93)])
def test_detectron2s_own_mapper_shifts_them(image, scale, iou):
    """When this fails Detectron2 has mended it, and the floats of CrowdDatasetMapper can go."""
    mapper = everything([T.Resize((round(HEIGHT * scale), round(WIDTH * scale)))], DatasetMapper)
    whole, floats = (mapped(mapper, record(image, kind)) for kind in ("whole", "floats"))
    boxes, moved = floats.gt_boxes.tensor, whole.gt_boxes.tensor
    assert torch.equal(moved, boxes.floor()) and not torch.equal(moved, boxes)
    corners = torch.maximum(boxes, moved).unbind(1), torch.minimum(boxes, moved).unbind(1)
    overlap = (corners[1][2] - corners[0][0]) * (corners[1][3] - corners[0][1])
    union = floats.gt_boxes.area() + whole.gt_boxes.area() - overlap
    assert (overlap / union).mean() < iou
    assert all((p % 1 == 0).all() for polygons in whole.gt_masks.polygons for p in polygons)


def test_rotated_boxes_and_masks_are_as_ever(image):
    cfg = config("fpn")
    objects = [{"bbox": [30, 20, 11, 7, 45], "bbox_mode": BoxMode.XYWHA_ABS, "category_id": 0}]
    rle = {"counts": [0, HEIGHT * WIDTH], "size": [HEIGHT, WIDTH]}
    mask = np.ones((HEIGHT, WIDTH), np.uint8)
    for segmentation in (rle, mask, None):
        annotations = [{**a, "segmentation": segmentation} for a in objects]
        mapper = CrowdDatasetMapper(cfg, is_train=True, augmentations=[T.Resize((33, 41))])
        whole = mapped(mapper, {**image, "annotations": annotations})
        annotations[0]["bbox"] = list(map(float, annotations[0]["bbox"]))
        floats = mapped(mapper, {**image, "annotations": annotations})
        assert torch.equal(whole.gt_boxes.tensor, floats.gt_boxes.tensor) and len(whole) == 1


@pytest.mark.parametrize("shortest", [32, 60, 120])
def test_inspect_looks_at_the_same_boxes(image, shortest):
    keys = ("INPUT.MIN_SIZE_TEST", shortest, "MODEL.ROI_HEADS.NUM_CLASSES", 12)
    mapper = image_mapper(config("fpn", *keys))
    floats = mapped(mapper, record(image, "floats"))
    for kind in KINDS:
        found = mapped(mapper, record(image, kind))
        assert torch.equal(found.gt_boxes.tensor, floats.gt_boxes.tensor)
    box = record(image, "whole")["annotations"][0]["bbox"]
    x, y, w, h = (v * shortest / HEIGHT for v in box)
    expected = torch.tensor([x, y, x + w, y + h])
    torch.testing.assert_close(found.gt_boxes.tensor[0], expected)
