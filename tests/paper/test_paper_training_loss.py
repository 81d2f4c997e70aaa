"""The loss over all RoIs of the training set, against loops over images and RoIs."""

import json
import pickle

import numpy as np
import pytest
import torch
from models import batch, config, detector
from torch import nn

from projects.paper.ohem_paper import training_loss
from projects.paper.ohem_paper.experiment import add_settings


@pytest.fixture
def model_and_batch():
    overrides = ("MODEL.LOAD_PROPOSALS", True, "MODEL.PROPOSAL_GENERATOR.NAME")
    cfg = config("fpn", *overrides, "PrecomputedProposals", plain=True)
    return detector(cfg).eval(), batch(cfg, num_objects=(3, 0))


def iou(a, b):
    width = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    area = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
    return width * height / (sum(area) - width * height)


def test_labels_are_those_of_iou_one_half(model_and_batch):
    model, (inputs, empty) = model_and_batch
    rois = training_loss.label_all(inputs["proposals"], inputs["instances"], 80)
    objects = inputs["instances"].gt_boxes.tensor.tolist()
    classes = inputs["instances"].gt_classes.tolist()
    boxes = inputs["proposals"].proposal_boxes.tensor.tolist() + objects
    assert rois.proposal_boxes.tensor.tolist() == boxes
    for box, label in zip(boxes, rois.gt_classes.tolist()):
        overlaps = [iou(box, o) for o in objects]
        best = max(range(len(objects)), key=overlaps.__getitem__)
        assert label == (classes[best] if overlaps[best] >= 0.5 else 80)
    assert (rois.gt_classes < 80).sum() >= 3
    nothing = training_loss.label_all(empty["proposals"], empty["instances"], 80)
    assert (nothing.gt_classes == 80).all()


def test_mean_is_over_rois_and_not_over_images(model_and_batch):
    model, inputs = model_and_batch
    inputs[1]["proposals"] = inputs[1]["proposals"][:7]
    cls, box = [], []
    with torch.no_grad():
        for one in inputs:
            rois = training_loss.label_all(one["proposals"], one["instances"], 80)
            features = model.backbone(model.preprocess_image([one]).tensor)
            heads = model.roi_heads
            for i in range(len(rois)):
                roi = rois[i]
                pooled = heads.box_pooler(
                    [features[f] for f in heads.box_in_features], [roi.proposal_boxes]
                )
                scores, deltas = heads.box_predictor(heads.box_head(pooled))
                cls.append(-torch.log_softmax(scores[0], 0)[roi.gt_classes[0]].item())
                label = int(roi.gt_classes)
                if label == 80:
                    continue
                transform = heads.box_predictor.box2box_transform
                wanted = transform.get_deltas(roi.proposal_boxes.tensor, roi.gt_boxes.tensor)
                # Detectron2's default here is L1
                box.append((deltas[0, 4 * label :][:4] - wanted[0]).abs().sum().item())
    found = training_loss.mean_loss(model, inputs)
    assert found["loss_cls"] == pytest.approx(sum(cls) / len(cls), rel=1e-4)
    assert found["loss_box_reg"] == pytest.approx(sum(box) / len(cls), rel=1e-4)
    assert found["loss"] == pytest.approx(found["loss_cls"] + found["loss_box_reg"])


def test_leaves_no_trace(model_and_batch):
    model, inputs = model_and_batch
    model.train()
    random_state = torch.get_rng_state()
    training_loss.mean_loss(model, inputs)
    assert model.training and all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_model_in_the_wrapper_for_several_processes(model_and_batch):
    model, inputs = model_and_batch
    expected = training_loss.mean_loss(model, inputs)
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    try:
        wrapped = nn.parallel.DistributedDataParallel(model)
        assert training_loss.mean_loss(wrapped, inputs) == expected
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize(("num", "expected"), [(0, 6), (3, 3), (4, 4), (100, 6)])
def test_images_are_spread_over_the_data_set(tree_crowns, tmp_path, num, expected):
    from ohem_d2 import add_ohem_config
    from ohem_d2.tools.data.datasets import register_datasets

    full = json.loads((tree_crowns / "train.json").read_text())
    full["images"] = full["images"][::100][:6]
    ids = [image["id"] for image in full["images"]]
    full["annotations"] = [a for a in full["annotations"] if a["image_id"] in ids]
    (tmp_path / "six.json").write_text(json.dumps(full))
    boxes = [np.array([[0, 0, 50, 60]], np.float32)] * 6
    proposals = {"ids": ids, "boxes": boxes, "objectness_logits": [np.ones(1, np.float32)] * 6}
    (tmp_path / "six.pkl").write_bytes(pickle.dumps(proposals))

    cfg = config("fpn", "MODEL.LOAD_PROPOSALS", True)
    add_ohem_config(cfg)
    add_settings(cfg)
    cfg.TRAINING_LOSS.NUM_IMAGES = num
    cfg.DATASETS.TRAIN = (f"coco:{tmp_path / 'six.json'}:{tree_crowns / 'tiles'}",)
    cfg.DATASETS.PROPOSAL_FILES_TRAIN = (str(tmp_path / "six.pkl"),)
    register_datasets(cfg.DATASETS.TRAIN)
    images = list(training_loss.TrainingImages(cfg))
    assert len(images) == expected
    assert len({image["image_id"] for image in images}) == expected
    assert all(len(image["proposals"]) == 1 for image in images)
    # the same each time: no flips, no sizes drawn
    np.random.seed(0)
    for a, b in zip(images, training_loss.TrainingImages(cfg), strict=True):
        assert torch.equal(a["image"], b["image"])
    # and training goes on with the random numbers that it would have had
    found = np.random.random()
    np.random.seed(0)
    assert found == np.random.random()
