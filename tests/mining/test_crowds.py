import copy
import os
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.data import transforms as T
from detectron2.data.datasets import load_coco_json
from detectron2.structures import Boxes, BoxMode, Instances
from models import batch, config, detector, random_proposals
from steps import train_heads

from ohem_d2 import CrowdDatasetMapper, IgnoreRegions
from ohem_d2.mining.candidates import candidates
from ohem_d2.tools.training.trainer import OHEMTrainer


def regions(num_instances=4):
    boxes = Boxes(torch.tensor([[0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 60.0, 60.0]]))
    return IgnoreRegions(boxes, num_instances)


@pytest.mark.parametrize(
    "item",
    [
        slice(1, 3),
        torch.tensor([0, 3]),
        torch.tensor([True, False, True, False]),
        [2, 1],
    ],
)
def test_a_part_of_the_instances_keeps_all_regions(item):
    target = Instances((100, 100), gt_classes=torch.arange(4), ignore_regions=regions())
    part = target[item]
    assert len(part) == 2
    assert torch.equal(part.ignore_regions.boxes.tensor, regions().boxes.tensor)


def test_no_instance_keeps_all_regions():
    target = Instances((100, 100), gt_classes=torch.arange(4), ignore_regions=regions())
    part = target[torch.zeros(4, dtype=torch.bool)]
    assert len(part) == 0 and len(part.ignore_regions.boxes) == 2
    assert len(part.to("cpu").ignore_regions.boxes) == 2
    assert len(pickle.loads(pickle.dumps(part)).ignore_regions.boxes) == 2
    assert len(target[1]) == 1


def test_instances_with_regions_are_joined():
    parts = [
        Instances((100, 100), gt_classes=torch.arange(n), ignore_regions=regions(n)) for n in (4, 0)
    ]
    joined = Instances.cat(parts)
    assert len(joined.ignore_regions) == 4 and len(joined.ignore_regions.boxes) == 4


def inside(boxes, target, share):
    """Which boxes lie in one of the regions by this share of their area; a plain loop."""
    result = []
    for x0, y0, x1, y1 in boxes.tensor.tolist():
        overlaps = [
            max(min(x1, r[2]) - max(x0, r[0]), 0) * max(min(y1, r[3]) - max(y0, r[1]), 0)
            for r in target.ignore_regions.boxes.tensor.tolist()
        ]
        result.append(max(overlaps) / ((x1 - x0) * (y1 - y0)) >= share)
    return torch.tensor(result)


def test_share_of_a_box_inside_a_region():
    target = Instances((100, 100), gt_classes=torch.arange(4), ignore_regions=regions())
    boxes = Boxes(
        torch.tensor(
            [
                [0.0, 0.0, 5.0, 5.0],  # inside
                [0.0, 0.0, 20.0, 10.0],  # a half, which is as much as is asked for
                [0.0, 0.0, 20.0, 11.0],  # less
                [55.0, 55.0, 57.0, 57.0],  # inside the other
                [5.0, 5.0, 55.0, 55.0],  # touches both
                [70.0, 70.0, 80.0, 80.0],  # outside
            ]
        )
    )
    expected = [True, True, False, True, False, False]
    assert inside(boxes, target, 0.5).tolist() == expected
    rois = Instances((100, 100), proposal_boxes=boxes, gt_classes=torch.full((6,), 80))
    (kept,) = candidates([rois], [target], 80, 0.5)
    assert kept.tolist() == [i for i, is_inside in enumerate(expected) if not is_inside]
    target.remove("ignore_regions")
    (kept,) = candidates([rois], [target], 80, 0.5)
    assert len(kept) == 6


@pytest.fixture
def record(tmp_path):
    cv2.imwrite(str(tmp_path / "image.png"), np.zeros((80, 100, 3), np.uint8))

    def annotation(box, crowd):
        return {"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0, "iscrowd": crowd}

    return {
        "file_name": str(tmp_path / "image.png"),
        "height": 80,
        "width": 100,
        "annotations": [
            annotation([10, 10, 20, 30], 0),
            annotation([60, 20, 40, 40], 1),
            annotation([90, 70, 30, 30], 1),  # reaches beyond the image
            annotation([50, 5, 20, 20], 0),
        ],
    }


def test_the_mapper_keeps_crowds_transformed_like_the_image(record):
    cfg = config("fpn")
    augmentations = [T.Resize((160, 200)), T.RandomFlip(prob=1.0)]
    mapper = CrowdDatasetMapper(cfg, is_train=True, augmentations=augmentations)
    before = copy.deepcopy(record)
    instances = mapper(record)["instances"]
    assert record == before
    plain = DatasetMapper(cfg, is_train=True, augmentations=augmentations)(record)["instances"]
    assert torch.equal(instances.gt_boxes.tensor, plain.gt_boxes.tensor) and len(instances) == 2
    # Twice as large, mirrored at x = 200, clipped at the edges.
    expected = [[0.0, 40.0, 80.0, 120.0], [0.0, 140.0, 20.0, 160.0]]
    assert instances.ignore_regions.boxes.tensor.tolist() == expected


def test_the_mapper_without_crowds_or_objects(record):
    mapper = CrowdDatasetMapper(config("fpn"), is_train=True, augmentations=[])
    crowds = [a for a in record["annotations"] if a["iscrowd"]]
    only_crowds = mapper({**record, "annotations": crowds})["instances"]
    assert len(only_crowds) == 0 and len(only_crowds.ignore_regions.boxes) == 2
    none = mapper({**record, "annotations": []})["instances"]
    assert len(none.ignore_regions.boxes) == 0
    assert "instances" not in CrowdDatasetMapper(config("fpn"), is_train=False)(record)


def test_boxes_made_of_masks_where_there_are_none(record):
    """Detectron2's mapper fails on an image without objects whose boxes it is to recompute."""
    settings = {"use_instance_mask": True, "recompute_boxes": True, "augmentations": []}
    mapper = CrowdDatasetMapper(True, image_format="BGR", **settings)
    for _ in range(2):
        assert len(mapper({**record, "annotations": []})["instances"]) == 0
        triangle = [
            {**a, "segmentation": [[10, 10, 30, 10, 30, 25]]} for a in record["annotations"]
        ]
        boxes = mapper({**record, "annotations": triangle})["instances"].gt_boxes.tensor
        assert boxes.unique(dim=0).tolist() == [[10, 10, 30, 25]]


def test_refined_background_in_a_crowd_is_not_mined():
    """Later stages of a cascade, too, each among the boxes that the one before has moved."""
    cfg = config("cascade", budget=500, ohem={"nms_scope": "none", "cascade_stages": "all"})
    model, inputs = detector(cfg), batch(cfg)
    crowd = Boxes(torch.tensor([[0.0, 0.0, 64.0, 96.0]]))
    for x in inputs:
        x["instances"].ignore_regions = IgnoreRegions(crowd, len(x["instances"]))
    minings = []

    class Watcher:
        def due(self):
            return True

        def show(self, mining):
            minings.append(mining)

    model.roi_heads.watcher = Watcher()
    train_heads(model, inputs)
    assert [mining.stage for mining in minings] == [0, 1, 2]
    for mining in minings:
        rois = mining.rois[0][mining.hard_of_image[0]]
        in_crowd = inside(rois.proposal_boxes, inputs[0]["instances"], 0.5)
        background = rois.gt_classes == 80
        assert background.any() and not (in_crowd & background).any()


@pytest.mark.parametrize("share", [0.2, 0.9])
def test_the_share_is_that_of_the_settings(share):
    cfg = config(budget=500, ohem={"nms_scope": "none", "ignore_ioa_thresh": share})
    model, inputs = detector(cfg), batch(cfg)
    crowd = Boxes(torch.tensor([[0.0, 0.0, 64.0, 96.0]]))
    _, everything, _ = train_heads(model, inputs)
    for x in inputs:
        x["instances"].ignore_regions = IgnoreRegions(crowd, len(x["instances"]))
    _, mined, _ = train_heads(model, inputs)
    for rois, kept, x in zip(everything, mined, inputs):
        in_crowd = inside(rois.proposal_boxes, x["instances"], share)
        assert len(kept) == len(rois) - int((in_crowd & (rois.gt_classes == 80)).sum())


def test_the_trainer_keeps_crowds(record, monkeypatch):
    DatasetCatalog.register("with_crowds", lambda: [{**record, "image_id": 1}] * 4)
    try:
        cfg = config("fpn", "DATASETS.TRAIN", ("with_crowds",), "DATALOADER.NUM_WORKERS", 0)
        cfg.SOLVER.IMS_PER_BATCH = 1
        (inputs,) = next(iter(OHEMTrainer.build_train_loader(cfg)))
    finally:
        DatasetCatalog.remove("with_crowds")
    assert len(inputs["instances"].ignore_regions.boxes) == 2


@pytest.mark.skipif(
    "COCO_SLICE" not in os.environ, reason="set COCO_SLICE to a folder of COCO 2017 with crowds"
)
def test_crowds_of_coco():
    """On real crowds: without the mapper OHEM mines in them, with it it does not."""
    folder = Path(os.environ["COCO_SLICE"])
    records = load_coco_json(str(folder / "instances_train2017.json"), str(folder / "train2017"))
    records = [r for r in records if any(a["iscrowd"] for a in r["annotations"])]
    assert records
    cfg = config("fpn", budget=2000, ohem={"nms_scope": "none"})
    model = detector(cfg)
    mined_inside = {}
    for mapper in (DatasetMapper, CrowdDatasetMapper):
        mined_inside[mapper] = 0
        for record in records:
            inputs = mapper(cfg, is_train=True, augmentations=[])(record)
            crowds = CrowdDatasetMapper(cfg, is_train=True, augmentations=[])(record)["instances"]
            inputs["proposals"] = random_proposals(inputs["instances"], 1000)
            _, (mined,), _ = train_heads(model, [inputs])
            in_crowd = inside(mined.proposal_boxes, crowds, 0.5)
            mined_inside[mapper] += int((in_crowd & (mined.gt_classes == 80)).sum())
    assert mined_inside[DatasetMapper] > 0 and mined_inside[CrowdDatasetMapper] == 0


@pytest.mark.parametrize("name", ["fpn", "cascade"])
@pytest.mark.parametrize("num_objects", [(3, 4), (0, 0)])
def test_background_in_a_crowd_is_not_mined(name, num_objects):
    stages = {"cascade_stages": "all"} if name == "cascade" else {}
    cfg = config(name, budget=500, ohem={"nms_scope": "none", **stages})
    model, inputs = detector(cfg), batch(cfg, num_objects)
    crowd = Boxes(torch.tensor([[0.0, 0.0, 64.0, 96.0]]))
    _, everything, _ = train_heads(model, inputs)
    for x in inputs:
        x["instances"].ignore_regions = IgnoreRegions(crowd, len(x["instances"]))
    _, mined, _ = train_heads(model, inputs)
    for image, before in zip(mined, everything):

        def in_crowd(rois):
            boxes = rois.proposal_boxes.tensor
            width = boxes[:, 2].clamp(max=64) - boxes[:, 0].clamp(max=64)
            return width / (boxes[:, 2] - boxes[:, 0]) >= 0.5

        background = image.gt_classes == 80
        assert not in_crowd(image)[background].any()
        excluded = in_crowd(before) & (before.gt_classes == 80)
        assert excluded.any() and len(image) == len(before) - int(excluded.sum())
        assert (image.gt_classes < 80).sum() == (before.gt_classes < 80).sum()
