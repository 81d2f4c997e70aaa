"""
OHEM with other parts of Detectron2 and with heads of others: each model trains some steps, what it
trains on is the mined batch, and it predicts as the plain model does.
"""

import copy
import itertools

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
from detectron2.utils.events import EventStorage
from models import batch, config, detector, gradients
from test_roi_heads import Fixed, assert_same
from torch import nn

from ohem_d2 import OHEMMixin, per_roi_losses, select_hard_examples


def step(model, inputs, seed=3):
    """A training step: its losses, and the RoIs that it trains on as they were sampled."""
    trained, heads = [], model.roi_heads
    seam = heads.label_and_sample_proposals

    def spy(*args):
        sampled = seam(*args)
        # Instances are changed later on by train_on_pred_boxes.
        trained.append([copy.copy(image) for image in sampled])
        for image, kept in zip(sampled, trained[-1]):
            kept._fields = dict(image.get_fields())
        return sampled

    heads.label_and_sample_proposals = spy
    model.zero_grad()
    torch.manual_seed(seed)  # an RPN samples, PointRend draws points
    try:
        with EventStorage() as storage:
            losses = model(inputs)
            sum(losses.values()).backward()
    finally:
        del heads.label_and_sample_proposals
    return losses, trained[0], storage.latest()


def boxes_of(images):
    return [image.proposal_boxes.tensor for image in images]


def assert_trains_on_the_mined_batch(ours, plain, inputs, select=select_hard_examples):
    """
    The choice is remade by hand, from the plain model on all RoIs; then the plain model, made to
    train on this choice, has the losses and the gradients of ours.
    """
    budget = ours.roi_heads.batch_size_per_image
    losses, trained, events = step(ours, inputs)
    assert events["ohem/num_candidates"][0] > budget
    predictor = plain.roi_heads.box_predictor
    predictor = predictor[0] if isinstance(predictor, nn.ModuleList) else predictor
    seen = []
    hook = predictor.register_forward_hook(lambda *args: seen.append(args[2]))
    with Fixed(plain.roi_heads, itertools.repeat(slice(None))):
        _, everything, _ = step(plain, inputs)
    hook.remove()
    ranking = per_roi_losses(predictor, [p.detach() for p in seen[0]], everything)
    ranking = sum(ranking.values()).split([len(image) for image in everything])
    chosen = [
        select(loss, boxes, image.gt_classes, budget)
        for loss, boxes, image in zip(ranking, boxes_of(everything), everything)
    ]
    for hard, boxes, index in zip(boxes_of(trained), boxes_of(everything), chosen):
        assert len(hard) <= budget and torch.equal(hard, boxes[index])
    with Fixed(plain.roi_heads, chosen):
        plain_losses, _, _ = step(plain, inputs)
    assert_same(losses, plain_losses)
    assert_same(gradients(ours), gradients(plain))


def train_and_compare_predictions(ours, plain, inputs):
    parameters = [p for p in ours.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in parameters]
    optimizer = torch.optim.SGD(parameters, lr=1e-3)
    for seed in range(2):
        losses, trained, events = step(ours, inputs, seed)
        assert all(torch.isfinite(loss) for loss in losses.values())
        mined = events["ohem/num_fg"][0] + events["ohem/num_bg"][0]
        assert mined * len(trained) == sum(len(image) for image in trained)
        optimizer.step()
    assert any(not torch.equal(a, b) for a, b in zip(before, parameters))
    plain.load_state_dict(ours.state_dict(), strict=True)
    inputs = [{k: v for k, v in x.items() if k != "instances"} for x in inputs]
    with torch.no_grad():
        torch.manual_seed(0)
        outputs = ours.eval()(inputs)
        torch.manual_seed(0)
        assert_equal(outputs, plain.eval()(inputs))
    assert sum(len(x["instances"]) for x in outputs) > 0


def assert_equal(ours, theirs):
    for a, b in zip(ours, theirs):
        assert a.keys() == b.keys()
        if "sem_seg" in a:
            assert torch.equal(a["sem_seg"], b["sem_seg"])
            assert torch.equal(a["panoptic_seg"][0], b["panoptic_seg"][0])
        fields = a["instances"].get_fields()
        assert fields.keys() == b["instances"].get_fields().keys()
        for name, value in fields.items():
            value, other = (getattr(v, "tensor", v) for v in (value, b["instances"].get(name)))
            assert torch.equal(value, other), name


def pair(cfg, plain_name):
    """A model and the plain one of the same weights."""
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    ours = detector(cfg)
    cfg = cfg.clone()
    cfg.MODEL.ROI_HEADS.NAME = plain_name
    plain = detector(cfg)
    plain.load_state_dict(ours.state_dict(), strict=True)
    return ours, plain


# A name of models.ZOO, and overrides
SETTINGS = {
    "masks": ("mask", []),
    "joints, mined": ("keypoint", ["MODEL.ROI_KEYPOINT_HEAD.NAME", "OHKMKeypointHead"]),
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
    ours, plain = pair(cfg, plain_name)
    inputs = batch(cfg)
    assert_trains_on_the_mined_batch(ours, plain, inputs)
    train_and_compare_predictions(ours, plain, inputs)


def test_frozen_trunk():
    cfg = config("fpn", "MODEL.BACKBONE.FREEZE_AT", 5)
    ours, plain = pair(cfg, "StandardROIHeads")
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
    ours, plain = pair(cfg, "StandardROIHeads")
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
    ours, plain = pair(cfg, "PointRendROIHeads")
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
    def score_rois(self, features, proposals, stage=0):
        boxes = [x.proposal_boxes for x in proposals]
        return self.box_predictor, self.predict(features, boxes)


def test_heads_of_a_users_own():
    cfg = config("fpn", "MODEL.ROI_HEADS.NAME", "OHEMUsersROIHeads")
    ours, plain = pair(cfg, "UsersROIHeads")
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
    ours, plain = pair(cfg, "UsersBoxHead")
    inputs = batch(cfg)
    assert_trains_on_the_mined_batch(ours, plain, inputs)
    train_and_compare_predictions(ours, plain, inputs)


def test_test_time_augmentation():
    cfg = config("mask", "TEST.AUG.MIN_SIZES", (96,), "TEST.DETECTIONS_PER_IMAGE", 10)
    ours, plain = pair(cfg, "StandardROIHeads")
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
    ours, plain = pair(cfg, "StandardROIHeads")
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
