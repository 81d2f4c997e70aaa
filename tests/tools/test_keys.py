"""Values that stop a run, and settings that do not do what they look like."""

import pytest
import torch
from detectron2.solver import build_lr_scheduler
from models import ROOT, config

from ohem_d2.tools.collect_env import has_compiled_ops
from ohem_d2.tools.keys import config_faults, config_notes
from ohem_d2.tools.load_model import default_cfg, merge

TRAINED = [*(ROOT / "configs").rglob("*.yaml")]


def faults(*overrides, training=True):
    data = ("DATASETS.TRAIN", ("mine",), "DATASETS.TEST", ("mine",))
    return list(config_faults(config("fpn", *data, *overrides), training))


def notes(*overrides):
    return list(config_notes(config("fpn", *overrides)))


def test_the_shipped_configurations_are_sound():
    assert len(TRAINED) >= 5
    for file in TRAINED:
        cfg = merge(default_cfg(), str(file), ["MODEL.DEVICE", "cpu"])
        assert list(config_faults(cfg)) == [] and list(config_notes(cfg)) == [], file


def test_a_shortened_training_that_never_leaves_the_warm_up_is_told():
    """Detectron2 goes to a tenth of the rate, from below, and says nothing."""
    file = str(ROOT / "configs/COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml")
    short = ["SOLVER.MAX_ITER", 1200, "SOLVER.STEPS", (840, 1080)]
    cfg = merge(default_cfg(), file, [*short, "MODEL.DEVICE", "cpu"])
    (note,) = config_notes(cfg)
    assert "SOLVER.WARMUP_ITERS = 1000 reaches beyond the first of SOLVER.STEPS, 840" in note
    weights = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([weights], lr=cfg.SOLVER.BASE_LR)
    scheduler, rates = build_lr_scheduler(cfg, optimizer), []
    for _ in range(1200):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert max(rates) < 0.11 * cfg.SOLVER.BASE_LR


def test_augmentation_in_tests_is_told_to_have_no_effect():
    (note,) = notes("TEST.AUG.ENABLED", True)
    assert note.startswith("TEST.AUG.ENABLED = True has no effect")


def test_a_warm_up_as_long_as_the_training():
    (note,) = notes("SOLVER.MAX_ITER", 500, "SOLVER.STEPS", ())
    assert "SOLVER.WARMUP_ITERS = 1000 reaches beyond SOLVER.MAX_ITER, 500" in note
    assert notes("SOLVER.MAX_ITER", 500, "SOLVER.STEPS", (), "SOLVER.WARMUP_ITERS", 499) == []
    cosine = ("SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "SOLVER.STEPS", (5,))
    assert notes(*cosine) == []  # which reads no steps


@pytest.mark.parametrize("steps", [(90000,), (60000, 60000), (80000, 60000), (0,)])
def test_steps_that_detectron2_stops_at(steps):
    (fault,) = faults("SOLVER.STEPS", steps)
    assert f"SOLVER.STEPS = {steps}; allowed: rising whole numbers >= 1, without" in fault
    assert faults("SOLVER.STEPS", steps, training=False) == []


def test_mixed_precision_needs_a_gpu():
    (fault,) = faults("SOLVER.AMP.ENABLED", True)
    assert fault == "SOLVER.AMP.ENABLED = True needs a GPU; allowed with 'cpu': False"
    assert faults("SOLVER.AMP.ENABLED", True, training=False) == []


def test_keys_of_ohem_that_plain_heads_do_not_read():
    keys = ("MODEL.ROI_HEADS.OHEM.NMS_THRESH", 0.6)
    (note,) = notes(*keys, "MODEL.ROI_HEADS.NAME", "StandardROIHeads")
    assert "MODEL.ROI_HEADS.NAME = 'StandardROIHeads' does not mine" in note
    assert notes(*keys) == notes("MODEL.ROI_HEADS.NAME", "StandardROIHeads") == []


@pytest.mark.skipif(has_compiled_ops(), reason="Detectron2's compiled ops are there")
@pytest.mark.parametrize("name", ["OHEMRROIHeads", "RROIHeads"])
@pytest.mark.parametrize("training", [True, False])
def test_rotated_boxes_need_the_compiled_ops(name, training):
    (fault,) = faults("MODEL.ROI_HEADS.NAME", name, training=training)
    assert f"MODEL.ROI_HEADS.NAME = '{name}' has rotated boxes, which need" in fault
