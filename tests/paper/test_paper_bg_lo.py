"""Fast R-CNN's bg_lo, counted by loops over boxes."""

import pytest
import torch
from detectron2.structures import Boxes
from detectron2.utils.events import EventStorage
from models import batch, config, detector, roi_inputs
from reference import iou

from projects.paper.ohem_paper.bg_lo import OHEMBgLoROIHeads, add_bg_lo_config

K = 80
HEADS = ["BgLoROIHeads", "OHEMBgLoROIHeads"]


def setup(name, low, *overrides, budget=500):
    """All RoIs that a sampler may take fit into the budget."""
    cfg = config("fpn", "MODEL.ROI_HEADS.NAME", name, budget=budget, ohem={"nms_scope": "none"})
    add_bg_lo_config(cfg)
    cfg.merge_from_list(["MODEL.ROI_HEADS.BG_LO", low, "MODEL.ROI_HEADS.POSITIVE_FRACTION", 1.0])
    cfg.merge_from_list(overrides)
    return cfg


def sampled(model, inputs):
    found, heads = [], model.roi_heads
    sample = heads.label_and_sample_proposals
    heads.label_and_sample_proposals = lambda *args: found.append(sample(*args)) or found[-1]
    with EventStorage():
        heads(*roi_inputs(model, inputs))
    del heads.label_and_sample_proposals
    return found[0]


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("low", [0.0, 0.1, 0.3])
def test_background_begins_at_bg_lo(name, low):
    cfg = setup(name, low)
    inputs = batch(cfg)
    for x, rois in zip(inputs, sampled(detector(cfg), inputs)):
        objects = x["instances"].gt_boxes.tensor.tolist()
        boxes = x["proposals"].proposal_boxes.tensor.tolist() + objects
        best = [max(iou(box, o) for o in objects) for box in boxes]
        expected = sorted((box, value >= 0.5) for box, value in zip(boxes, best) if value >= low)
        kinds = (rois.gt_classes < K).tolist()
        assert sorted(zip(rois.proposal_boxes.tensor.tolist(), kinds)) == expected
        assert (len(expected) < len(boxes)) == (low > 0)


@pytest.mark.parametrize("name", HEADS)
def test_an_image_without_objects_keeps_its_background(name):
    cfg = setup(name, 0.1)
    inputs = batch(cfg, num_objects=(3, 0))
    _, empty = sampled(detector(cfg), inputs)
    assert len(empty) == len(inputs[1]["proposals"]) and (empty.gt_classes == K).all()


def test_dummy_boxes_are_no_objects():
    """Some heads give RoIs of an image without objects boxes of objects all the same."""

    class WithDummies(OHEMBgLoROIHeads):
        def mine(self, rois, targets):
            assert not rois[1].has("gt_boxes")
            rois[1].gt_boxes = Boxes(torch.zeros(len(rois[1]), 4))
            return super().mine(rois, targets)

    cfg = setup("OHEMBgLoROIHeads", 0.1)
    inputs, model = batch(cfg, num_objects=(3, 0)), detector(cfg)
    model.roi_heads = WithDummies(cfg, model.backbone.output_shape()).train()
    _, empty = sampled(model, inputs)
    assert len(empty) == len(inputs[1]["proposals"])


@pytest.mark.parametrize(
    "overrides",
    [
        ("MODEL.ROI_HEADS.BG_LO", 0.5),
        ("MODEL.ROI_HEADS.BG_LO", -0.1),
        ("MODEL.ROI_HEADS.IOU_THRESHOLDS", [0.3, 0.5], "MODEL.ROI_HEADS.IOU_LABELS", [0, -1, 1]),
    ],
)
def test_impossible_values(overrides):
    with pytest.raises(ValueError, match="BG_LO = .*; allowed: from 0 to below the one threshold"):
        detector(setup("BgLoROIHeads", 0.1, *overrides))
