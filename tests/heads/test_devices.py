"""What mining makes is on the device of what it is made from: steps on a pretended second one."""

import contextlib
import copy
import types

import numpy as np
import pytest
import rotated_ops
import torch
from detectron2.structures import Boxes, PolygonMasks
from detectron2.utils.events import EventStorage
from models import batch, config, detector
from second_device import HOST, SECOND, SecondDevice, is_told_of_indexing
from test_rotated import OPERATORS, rotated_batch, rotated_config
from torch import Tensor

from ohem_d2 import IgnoreRegions, OHEMROIHeads
from ohem_d2.monitor.pictures import MiningPictures

pytestmark = pytest.mark.skipif(
    not is_told_of_indexing(), reason="this PyTorch does not tell of tensors that are indexed"
)

# A model of the small ones, values of the keys of OHEM, overrides
SETTINGS = {
    "fpn": ("fpn", {}, []),
    "quota": ("fpn", {"budget": "quota", "nms_scope": "none"}, []),
    "agnostic, in chunks": ("fpn", {"nms_scope": "agnostic", "chunk_size": 25}, []),
    "GIoU": ("fpn", {}, ["MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE", "giou"]),
    "sigmoid": ("fpn", {}, ["MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", True]),
    "screening": ("fpn", {"screening": 1.5}, []),
    "mask": ("mask", {}, []),
    "polygons": ("mask", {}, ["INPUT.MASK_FORMAT", "polygon"]),
    "keypoint": ("keypoint", {}, []),
    "c4-mask": ("c4-mask", {}, []),
    "cascade": ("cascade", {}, []),
    "all stages": ("cascade", {"cascade_stages": "all"}, []),
}


def inputs_of(cfg):
    """Images as a data loader gives them: on the host, with crowds, the second without objects."""
    inputs = batch(cfg, num_objects=(3, 0, 4))
    for x in inputs:
        boxes = Boxes(torch.tensor([[0.0, 0.0, 60.0, 96.0]]))
        target = x["instances"]
        target.ignore_regions = IgnoreRegions(boxes, len(target))
        if cfg.MODEL.MASK_ON and cfg.INPUT.MASK_FORMAT == "polygon":
            corners = target.gt_boxes.tensor[:, [0, 1, 2, 1, 2, 3, 0, 3]]
            target.gt_masks = PolygonMasks([[polygon] for polygon in corners.double().numpy()])
    return inputs


def train(model, forward, mode=None):
    """A step, all of the model on the device of the mode; its losses, and what was mined."""
    mined, heads = [], model.roi_heads
    select = heads.select
    heads.select = lambda *args: mined.append(select(*args)) or mined[-1]
    for tensor in (*model.parameters(), *model.buffers()) if mode else ():
        mode.take(tensor)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    torch.manual_seed(1)
    with mode or contextlib.nullcontext(), EventStorage() as storage:
        losses = forward()
        sum(losses.values()).backward()
        optimizer.step()
    return losses, mined, storage


def tensors_of(mining):
    for instances in (*mining.rois, *mining.proposals):
        for value in instances.get_fields().values():
            value = getattr(value, "tensor", value)
            yield from [value] if isinstance(value, Tensor) else []
    yield from (*mining.losses.values(), mining.image_index, mining.is_foreground, mining.ranking)
    yield from (mining.survivors, mining.hard, *mining.hard_of_image)


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_step_on_a_second_device(setting):
    name, ohem, overrides = SETTINGS[setting]
    if setting == "sigmoid" and "USE_SIGMOID_CE" not in config().MODEL.ROI_BOX_HEAD:
        pytest.skip("this Detectron2 has no sigmoid loss")
    cfg, mode = config(name, *overrides, ohem=ohem), SecondDevice()
    inputs, models = inputs_of(cfg), [detector(cfg), detector(cfg)]
    expected, _, _ = train(models[0], lambda: models[0](copy.deepcopy(inputs)))
    losses, mined, _ = train(models[1], lambda: models[1](inputs), mode)
    assert len(mined) == (3 if setting == "all stages" else 1)
    assert all(len(mining.hard) > 0 for mining in mined)
    tensors = [x for mining in mined for x in tensors_of(mining)]
    assert all(mode.has(x) for x in (*tensors, *losses.values()))
    # Detectron2's mask_rcnn_loss has one.
    assert mode.host_indices == cfg.MODEL.MASK_ON
    for key, loss in expected.items():
        assert torch.equal(loss, losses[key])


def test_a_step_with_rotated_boxes(monkeypatch):
    cfg, mode = rotated_config(), SecondDevice()

    def on_second(operator):
        def call(*args):
            with torch._C.DisableTorchFunction():  # as an operator: its inside is not looked at
                sides = {mode.has(x) for x in args if isinstance(x, Tensor)}
                assert sides == {True} or operator is rotated_ops.roi_align_rotated_backward
                return mode.take(operator(*args))

        return call

    stand_ins = {name: on_second(getattr(rotated_ops, name)) for name in OPERATORS}
    monkeypatch.setattr(torch.ops, "detectron2", types.SimpleNamespace(**stand_ins))
    with contextlib.suppress(ImportError):
        from detectron2 import _C  # where v0.6 looks for them

        for name, operator in stand_ins.items():
            monkeypatch.setattr(_C, name, operator, raising=False)
    model, inputs = detector(cfg), rotated_batch(cfg)

    def forward():
        images = model.preprocess_image(inputs)
        of_heads = ([x[key].to(model.device) for x in inputs] for key in ("proposals", "instances"))
        return model.roi_heads(images, model.backbone(images.tensor), *of_heads)[1]

    losses, (mining,), _ = train(model, forward, mode)
    assert len(mining.hard) > 0 and mode.host_indices == 0
    assert all(mode.has(x) for x in (*tensors_of(mining), *losses.values()))


def test_pictures_of_what_is_on_a_second_device():
    cfg, mode = config(), SecondDevice()
    model = detector(cfg)
    model.roi_heads.watcher = MiningPictures(1, cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD, "BGR")
    _, _, storage = train(model, lambda: model(inputs_of(cfg)), mode)
    assert [name for name, *_ in storage._vis_data] == ["ohem/mined"]


class Faulty(OHEMROIHeads):
    """Makes something on the host that belongs on the device of the losses."""

    fault = ""

    def rank(self, losses):
        ranking = super().rank(losses)
        if self.fault == "arange":
            return ranking + torch.arange(len(ranking))
        if self.fault == "round trip":
            return ranking * torch.from_numpy(ranking.cpu().numpy())
        if self.fault == "NumPy":
            return torch.from_numpy(np.sqrt(ranking)).to(ranking.device)
        if self.fault == "index":
            return ranking[torch.arange(len(ranking))]
        return ranking


@pytest.mark.parametrize("fault", ["arange", "round trip", "NumPy", "index", "none"])
def test_planted_faults_are_found(fault):
    cfg, mode = config("fpn", "MODEL.ROI_HEADS.NAME", "OHEMROIHeads"), SecondDevice()
    model = detector(cfg)
    model.roi_heads.__class__ = Faulty
    model.roi_heads.fault = fault
    found = {"arange": "add", "round trip": "mul", "NumPy": "__array__"}
    if fault in found:
        words = rf"{found[fault]}.* on {SECOND} and on {HOST}"
        with pytest.raises(RuntimeError, match=words):
            train(model, lambda: model(inputs_of(cfg)), mode)
    else:
        train(model, lambda: model(inputs_of(cfg)), mode)
        assert mode.host_indices == (fault == "index")
