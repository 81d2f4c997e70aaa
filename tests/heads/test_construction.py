import pytest
import torch
from detectron2.config import configurable
from detectron2.modeling.roi_heads import ROIHeads, StandardROIHeads
from detectron2.utils.events import EventStorage
from models import batch, config, detector, roi_inputs
from steps import train_heads

from ohem_d2 import OHEMMixin, OHEMROIHeads, OHEMSettings


def test_construction_without_a_cfg():
    cfg = config("fpn")
    by_cfg = detector(cfg).roi_heads
    arguments = {
        "num_classes": 80,
        "batch_size_per_image": 16,
        "positive_fraction": 0.25,
        "proposal_matcher": by_cfg.proposal_matcher,
        "box_in_features": by_cfg.box_in_features,
        "box_pooler": by_cfg.box_pooler,
        "box_head": by_cfg.box_head,
        "box_predictor": by_cfg.box_predictor,
    }
    assert OHEMROIHeads(**arguments).ohem == OHEMSettings()
    heads = OHEMROIHeads(**arguments, ohem=OHEMSettings(nms_thresh=0.3))
    assert heads.ohem.nms_thresh == 0.3
    model, inputs = detector(cfg), batch(cfg)
    model.roi_heads = heads
    _, trained, _ = train_heads(model, inputs)
    assert [len(image) for image in trained] == [16, 16]
    extra = OHEMROIHeads(cfg, model.backbone.output_shape(), ohem=OHEMSettings(nms_thresh=0.2))
    assert extra.ohem.nms_thresh == 0.2


class MyHeads(StandardROIHeads):
    """A user's heads: an argument of their own, another branch, labels with one more field."""

    @configurable
    def __init__(self, *, sharpness=1.0, **kwargs):
        super().__init__(**kwargs)
        self.sharpness = sharpness

    @classmethod
    def from_config(cls, cfg, input_shape):
        return {**super().from_config(cfg, input_shape), "sharpness": 2.0}

    def label_and_sample_proposals(self, proposals, targets):
        sampled = super().label_and_sample_proposals(proposals, targets)
        for image in sampled:
            image.gt_weight = torch.full((len(image),), self.sharpness)
        return sampled


class MyOHEMHeads(OHEMMixin, MyHeads):
    pass


def test_a_users_heads_become_ohem_heads():
    cfg = config("fpn")
    model = detector(cfg)
    model.roi_heads = MyOHEMHeads(cfg, model.backbone.output_shape())
    losses, trained, storage = train_heads(model, batch(cfg))
    assert all((image.gt_weight == 2.0).all() and len(image) == 16 for image in trained)
    assert "ohem/num_fg" in storage.latest()


def test_heads_that_cannot_mine_say_so():
    cfg = config("fpn")
    features = detector(cfg).backbone.output_shape()

    class Bare(ROIHeads):
        @configurable
        def __init__(self, **kwargs):
            super().__init__(**kwargs)

        @classmethod
        def from_config(cls, cfg, input_shape):
            return super().from_config(cfg)

    class OHEMBare(OHEMMixin, Bare):
        pass

    with pytest.raises(
        TypeError, match="OHEMBare has no standard box branch, so it has to say how it scores RoIs"
    ):
        OHEMBare(cfg, features)

    class OwnSampling(MyHeads):
        def label_and_sample_proposals(self, proposals, targets):
            return proposals

    class OHEMOwnSampling(OHEMMixin, OwnSampling):
        pass

    model = detector(cfg)
    model.roi_heads = OHEMOwnSampling(cfg, features)
    with pytest.raises(TypeError, match="OHEMOwnSampling does not call _sample_proposals"):
        train_heads(model, batch(cfg))


def test_extra_arguments_of_a_users_heads_are_passed_on():
    class Heads(StandardROIHeads):
        def forward(self, images, features, proposals, targets=None, *, scale=1.0):
            proposals, losses = super().forward(images, features, proposals, targets)
            return proposals, {k: scale * v for k, v in losses.items()}

    class OHEMHeads(OHEMMixin, Heads):
        pass

    cfg = config("fpn")
    model = detector(cfg)
    model.roi_heads.__class__ = OHEMHeads
    inputs = batch(cfg)
    with EventStorage():
        _, once = model.roi_heads(*roi_inputs(model, inputs))
        _, twice = model.roi_heads(*roi_inputs(model, inputs), scale=2.0)
    for name in once:
        torch.testing.assert_close(2 * once[name], twice[name])
