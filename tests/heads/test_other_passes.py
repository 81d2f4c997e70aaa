"""
Passes in training mode that are no iterations of the training, as PreciseBN's: they mine as the
training does, and leave no trace in it.
"""

import pytest
import torch
from detectron2.engine.hooks import PreciseBN
from detectron2.utils.events import EventStorage
from models import batch, config, detector, roi_inputs
from torch import nn

from ohem_d2 import heads as ohem_heads

# name of models.ZOO, overrides: batch normalization in the box head, or in the last stage of a C4
WITH_NORMS = {
    "box head": ("fpn", ["MODEL.ROI_BOX_HEAD.NUM_CONV", 1, "MODEL.ROI_BOX_HEAD.NORM", "BN"]),
    # as in Detectron2's Misc/mask_rcnn_R_50_FPN_3x_syncbn.yaml
    "sync": ("mask", ["MODEL.ROI_BOX_HEAD.NUM_CONV", 2, "MODEL.ROI_BOX_HEAD.NORM", "SyncBN"]),
    "res5": ("c4", ["MODEL.RESNETS.NORM", "BN"]),
    "cascade": ("cascade", ["MODEL.ROI_BOX_HEAD.NUM_CONV", 1, "MODEL.ROI_BOX_HEAD.NORM", "BN"]),
}


def with_norms(name, **ohem):
    zoo, overrides = WITH_NORMS[name]
    overrides = [*overrides, "MODEL.ROI_BOX_HEAD.CONV_DIM", 8, "MODEL.BACKBONE.FREEZE_AT", 5]
    if name == "cascade":
        ohem["cascade_stages"] = "all"
    cfg = config(zoo, *overrides, "MODEL.MASK_ON", False, ohem=ohem)
    model = detector(cfg)
    model.backbone.eval()
    return model, batch(cfg)


def norms_of(heads):
    return [m for m in heads.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


@pytest.mark.parametrize("name", WITH_NORMS)
def test_precise_bn_takes_the_statistics_of_the_rois_that_are_trained_on(name):
    model, inputs = with_norms(name)
    norms, seen = norms_of(model.roi_heads), []
    hook = PreciseBN(1, model, [inputs] * 3, num_iter=3)
    with EventStorage(7) as storage:
        losses = model(inputs)  # an iteration of the training, which mines
        scalar = "stage0/ohem/num_fg" if name == "cascade" else "ohem/num_fg"
        mined = storage.latest()[scalar]

        def note(module, args):
            if module.training:
                seen.append((module, args[0].detach()))

        handles = [norm.register_forward_pre_hook(note) for norm in norms]
        hook.update_stats()
        for handle in handles:
            handle.remove()
        assert storage.latest()[scalar] == mined  # what is mined meanwhile is not logged
    assert losses
    for norm in norms:
        batches = [x for module, x in seen if module is norm]
        assert len(batches) == 3  # once in each pass, and not for all RoIs
        values = torch.cat(batches).transpose(0, 1).flatten(1)
        assert torch.allclose(norm.running_mean, values.mean(dim=1), rtol=1e-3, atol=1e-5)
        variance = values.var(dim=1, correction=0)
        assert torch.allclose(norm.running_var, variance, rtol=1e-2, atol=1e-5)
        assert norm.training and norm.momentum == 0.1


def test_they_mine_once_the_training_does_whatever_their_storage_says():
    cfg = config(ohem={"warmup_iters": 5})
    model, inputs = detector(cfg), batch(cfg)
    arguments = roi_inputs(model, inputs)

    def mines_in_between():
        with EventStorage() as own, torch.no_grad():
            model.roi_heads(*arguments)
            return "ohem/num_fg" in own.latest()

    with EventStorage() as storage:
        for iteration in range(8):
            model.roi_heads(*roi_inputs(model, inputs))
            assert ("ohem/num_fg" in storage.latest()) == (iteration >= 5) == mines_in_between()
            storage.step()
    with EventStorage():  # another training begins with its warm-up
        model.roi_heads(*roi_inputs(model, inputs))
        assert not mines_in_between()


def test_counters_do_not_move(monkeypatch):
    """Mined iterations 1, 2 and 4 are compared, whatever lies between."""
    compared = []
    monkeypatch.setattr(ohem_heads, "verify", lambda *args: compared.append(0) or "")
    cfg = config()
    model, inputs = detector(cfg), batch(cfg)
    heads, numbers = model.roi_heads, []
    for iteration in range(4):
        with EventStorage(iteration):
            heads(*roi_inputs(model, inputs))
        numbers.append(len(compared))
        arguments = roi_inputs(model, inputs)
        with EventStorage(), torch.no_grad():
            for _ in range(5):
                heads(*arguments)
    assert numbers == [1, 2, 2, 3] and len(compared) == 3
