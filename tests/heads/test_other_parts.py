"""
OHEM with other parts of Detectron2 and with heads of others: each model trains some steps, what it
trains on is the mined batch, and it predicts as the plain model does.
"""

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import configurable
from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultPredictor
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY, GeneralizedRCNNWithTTA
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import FastRCNNOutputLayers, ROIHeads, StandardROIHeads
from detectron2.projects.point_rend import add_pointrend_config
from detectron2.projects.point_rend.roi_heads import PointRendROIHeads
from models import batch, config, gradients
from steps import (
    assert_equal,
    assert_trains_on_the_mined_batch,
    pair_of,
    step,
    train_and_compare_predictions,
)
from torch import nn

from ohem_d2 import OHEMMixin

# A name of models.ZOO, and overrides
SETTINGS = {
    "masks": ("mask", []),
    "joints": ("keypoint", []),
    "cascade with masks": ("cascade", []),
    "class-agnostic": ("fpn", ["MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True]),
    "class-agnostic C4": ("c4", ["MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True]),
    "masks on predicted boxes": ("mask", ["MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES", True]),
    "joints on predicted boxes": ("keypoint", ["MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES", True]),
    "precomputed proposals": (
        "fpn",
        ["MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals", "MODEL.LOAD_PROPOSALS", True],
    ),
}


@pytest.mark.parametrize("name, overrides", SETTINGS.values(), ids=SETTINGS)
def test_branches_and_settings(name, overrides):
    cfg = config(name, *overrides)
    plain_name = cfg.MODEL.ROI_HEADS.NAME.removeprefix("OHEM")
    plain_name = {"ROIHeads": "StandardROIHeads"}.get(plain_name, plain_name)
    ours, plain = pair_of(cfg, plain_name)
    inputs = batch(cfg)
    assert_trains_on_the_mined_batch(ours, plain, inputs)
    train_and_compare_predictions(ours, plain, inputs)


def test_frozen_trunk():
    cfg = config("fpn", "MODEL.BACKBONE.FREEZE_AT", 5)
    ours, plain = pair_of(cfg, "StandardROIHeads")
    for model in (ours, plain):
        for part in (model.backbone, model.proposal_generator):
            part.requires_grad_(False)
    inputs = batch(cfg)
    assert_trains_on_the_mined_batch(ours, plain, inputs)
    assert gradients(ours).keys() == {n for n, _ in ours.named_parameters() if "roi_heads" in n}
    train_and_compare_predictions(ours, plain, inputs)


def test_panoptic_fpn():
    cfg = config(
        "mask",
        *("MODEL.META_ARCHITECTURE", "PanopticFPN", "MODEL.SEM_SEG_HEAD.CONVS_DIM", 8),
        *("MODEL.SEM_SEG_HEAD.NAME", "SemSegFPNHead", "MODEL.SEM_SEG_HEAD.NORM", ""),
        *("MODEL.SEM_SEG_HEAD.IN_FEATURES", ["p2", "p3", "p4", "p5"]),
        *("MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH", 0.0),
    )
    ours, plain = pair_of(cfg, "StandardROIHeads")
    inputs = batch(cfg)
    for x in inputs:
        x["sem_seg"] = torch.randint(0, 54, x["image"].shape[1:])
    assert_trains_on_the_mined_batch(ours, plain, inputs)
    assert "loss_sem_seg" in step(ours, inputs)[0]
    train_and_compare_predictions(ours, plain, inputs)


@ROI_HEADS_REGISTRY.register()
class OHEMPointRendROIHeads(OHEMMixin, PointRendROIHeads):
    pass


@pytest.mark.parametrize("heads", ["OHEMROIHeads", "OHEMPointRendROIHeads"])
def test_pointrend(heads):
    cfg = config("mask")
    add_pointrend_config(cfg)
    cfg.merge_from_list(
        [
            *("MODEL.ROI_HEADS.NAME", heads, "MODEL.ROI_MASK_HEAD.NAME", "PointRendMaskHead"),
            *("MODEL.ROI_MASK_HEAD.POOLER_TYPE", "", "MODEL.ROI_MASK_HEAD.POINT_HEAD_ON", True),
            *("MODEL.ROI_MASK_HEAD.FC_DIM", 16, "MODEL.POINT_HEAD.FC_DIM", 16),
            *("MODEL.POINT_HEAD.SUBDIVISION_STEPS", 2, "TEST.DETECTIONS_PER_IMAGE", 10),
        ]
    )
    ours, plain = pair_of(cfg, "PointRendROIHeads")
    inputs = batch(cfg)
    assert_trains_on_the_mined_batch(ours, plain, inputs)
    assert "loss_mask_point" in step(ours, inputs)[0]
    train_and_compare_predictions(ours, plain, inputs)


class ConvHead(nn.Module):
    """A user's box head: a convolution and the mean."""

    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, 24, 3)
        self.output_shape = ShapeSpec(channels=24)

    def forward(self, x):
        return self.conv(x).relu().mean(dim=(2, 3))


@ROI_HEADS_REGISTRY.register()
class UsersROIHeads(ROIHeads):
    """A user's heads, from the bottom: one pooler, a box head, a predictor, losses by a factor."""

    @configurable
    def __init__(self, *, pooler, head, box_predictor, factor, **kwargs):
        super().__init__(**kwargs)
        self.pooler, self.head, self.box_predictor = pooler, head, box_predictor
        self.factor = factor

    @classmethod
    def from_config(cls, cfg, input_shape):
        head = ConvHead(input_shape["p3"].channels)
        return {
            **super().from_config(cfg),
            "pooler": ROIPooler(5, [1 / input_shape["p3"].stride], 1, "ROIAlignV2"),
            "head": head,
            "box_predictor": FastRCNNOutputLayers(cfg, head.output_shape),
            "factor": 0.5,
        }

    def predict(self, features, boxes):
        return self.box_predictor(self.head(self.pooler([features["p3"]], boxes)))

    def forward(self, images, features, proposals, targets=None):
        if self.training:
            proposals = self.label_and_sample_proposals(proposals, targets)
        predictions = self.predict(features, [x.proposal_boxes for x in proposals])
        if self.training:
            losses = self.box_predictor.losses(predictions, proposals)
            return proposals, {name: self.factor * loss for name, loss in losses.items()}
        return self.box_predictor.inference(predictions, proposals)[0], {}


@ROI_HEADS_REGISTRY.register()
class OHEMUsersROIHeads(OHEMMixin, UsersROIHeads):
    def score_rois(self, features, proposals):
        boxes = [x.proposal_boxes for x in proposals]
        return self.box_predictor, self.predict(features, boxes)


def test_heads_of_a_users_own():
    cfg = config("fpn", "MODEL.ROI_HEADS.NAME", "OHEMUsersROIHeads")
    ours, plain = pair_of(cfg, "UsersROIHeads")
    inputs = batch(cfg)
    assert_trains_on_the_mined_batch(ours, plain, inputs)
    train_and_compare_predictions(ours, plain, inputs)


@ROI_HEADS_REGISTRY.register()
class UsersBoxHead(StandardROIHeads):
    """Standard heads with a box head of a user's own."""

    @classmethod
    def _init_box_head(cls, cfg, input_shape):
        ret = super()._init_box_head(cfg, input_shape)
        head = ConvHead(input_shape["p2"].channels)
        predictor = FastRCNNOutputLayers(cfg, head.output_shape)
        return {**ret, "box_head": head, "box_predictor": predictor}


@ROI_HEADS_REGISTRY.register()
class OHEMUsersBoxHead(OHEMMixin, UsersBoxHead):
    pass


def test_a_box_head_of_a_users_own():
    cfg = config("mask", "MODEL.ROI_HEADS.NAME", "OHEMUsersBoxHead")
    ours, plain = pair_of(cfg, "UsersBoxHead")
    inputs = batch(cfg)
    assert_trains_on_the_mined_batch(ours, plain, inputs)
    train_and_compare_predictions(ours, plain, inputs)


def test_test_time_augmentation():
    cfg = config("mask", "TEST.AUG.MIN_SIZES", (96,), "TEST.DETECTIONS_PER_IMAGE", 10)
    ours, plain = pair_of(cfg, "StandardROIHeads")
    train_and_compare_predictions(ours, plain, batch(cfg))
    image = batch(cfg)[0]["image"].byte()
    inputs = [{"image": image, "height": 96, "width": 128}]
    with torch.no_grad():
        outputs, expected = (GeneralizedRCNNWithTTA(cfg, m)(inputs) for m in (ours, plain))
    assert sum(len(x["instances"]) for x in outputs) > 0
    assert outputs[0]["instances"].has("pred_masks")
    assert_equal(outputs, expected)


def test_default_predictor(tmp_path):
    cfg = config("mask", "INPUT.MIN_SIZE_TEST", 96)
    ours, plain = pair_of(cfg, "StandardROIHeads")
    train_and_compare_predictions(ours, plain, batch(cfg))
    DetectionCheckpointer(ours, str(tmp_path)).save("model")
    cfg.MODEL.WEIGHTS = str(tmp_path / "model.pth")
    cfg.DATASETS.TEST = ("a_set_of_this_test",)
    MetadataCatalog.get("a_set_of_this_test")
    image = batch(cfg)[0]["image"].byte().permute(1, 2, 0).numpy()
    prediction = DefaultPredictor(cfg)(image)
    cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    assert len(prediction["instances"]) > 0
    assert_equal([prediction], [DefaultPredictor(cfg)(image)])
