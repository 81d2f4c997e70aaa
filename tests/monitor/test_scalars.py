import logging

import pytest
import torch
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage

from ohem_d2.mining.record import Mining
from ohem_d2.monitor.scalars import MiningMonitor


def mining(num_fg_mined, num_bg_mined, num_fg=40, num_bg=400, objects=3):
    """A selection of so many of so many."""
    ranking = torch.arange(1.0, num_fg + num_bg + 1)
    hard = torch.cat([torch.arange(num_fg_mined), num_fg + torch.arange(num_bg_mined)])
    return Mining(
        images=None,
        proposals=[],
        targets=[Instances((9, 9), gt_classes=torch.zeros(objects))],
        rois=[Instances((9, 9))],
        image_index=torch.zeros(num_fg + num_bg, dtype=torch.int64),
        is_foreground=torch.cat([torch.ones(num_fg), torch.zeros(num_bg)]).bool(),
        losses={"loss_cls": ranking, "loss_box_reg": torch.zeros_like(ranking)},
        ranking=ranking,
        survivors=torch.arange(num_fg + num_bg),
        hard=hard,
        hard_of_image=[hard],
    )


def warnings_of(caplog, steps, is_iteration=True, **kwargs):
    caplog.clear()
    monitor = MiningMonitor()
    with EventStorage() as storage:
        for step in steps:
            for _ in range(2):  # as a cascade does, which is no reason to warn earlier
                monitor.look_at(mining(*step, **kwargs), "", is_iteration)
            storage.step()
    return [r.message for r in caplog.records if r.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    "step, kind, key",
    [
        ((63, 1, 100, 400), "background", "RANK_LOC_WEIGHT"),
        ((56, 8, 100, 400), "background", "SMOOTH_L1_BETA"),
        ((0, 64, 40, 400), "foreground", "BATCH_SIZE_PER_IMAGE"),
    ],
)
def test_starvation_is_warned_of_once_and_names_a_key(caplog, step, kind, key):
    assert warnings_of(caplog, [step] * 200) == []
    (message,) = warnings_of(caplog, [step] * 900)
    assert kind in message and key in message
    assert warnings_of(caplog, [step] * 900, is_iteration=False) == []


def test_each_window_counts_anew(caplog):
    """Background starves in the second window alone."""
    (message,) = warnings_of(caplog, [(32, 32, 100, 400)] * 201 + [(63, 1, 100, 400)] * 249)
    assert "background" in message


@pytest.mark.parametrize(
    "steps",
    [
        [(32, 32)] * 450,
        [(3, 61, 3, 400)] * 450,  # all the foreground there is
        [(64, 0, 64, 0)] * 450,  # there is no background
        [(63, 1, 100, 400)] * 60 + [(32, 32)] * 390,  # for a while at the start
        # Of the second window all its background was mined: the first one's is forgotten.
        [(50, 50, 100, 400)] * 201 + [(100, 5, 100, 5)] * 249,
    ],
)
def test_no_false_alarm(caplog, steps):
    assert warnings_of(caplog, steps) == []


@pytest.mark.parametrize(
    "objects, cause",
    [
        (0, "there was no object. Look at the boxes of the training data"),
        (3, "objects none overlaps .* MODEL.ROI_HEADS.IOU_THRESHOLDS"),
    ],
)
def test_no_foreground_to_mine_names_the_cause(caplog, objects, cause):
    (message,) = warnings_of(caplog, [(0, 64, 0, 400)] * 450, objects=objects)
    assert "200 iterations no RoI was foreground" in message
    assert pytest.importorskip("re").search(cause, message)


def test_losses_that_are_not_finite_count_neither_in_means_nor_in_the_cut(caplog):
    found = mining(2, 2, 4, 4)
    found.losses["loss_box_reg"][1] = float("inf")
    with EventStorage() as storage:
        MiningMonitor().look_at(found, "", True)
        latest = {name: value for name, (value, _) in storage.latest().items()}
    assert latest["ohem/num_nonfinite"] == 1
    assert latest["ohem/mean_cls_hard"] == pytest.approx((1 + 5 + 6) / 3)
    assert latest["ohem/cut"] == 1
    (record,) = caplog.records
    assert "1 of 8 RoIs have a NaN or infinite loss in iteration 0" in record.message


def test_nothing_mined():
    with EventStorage() as storage:
        MiningMonitor().look_at(mining(0, 0, 0, 0), "", True)
        assert storage.latest()["ohem/cut"][0] == 0
        assert storage.latest()["ohem/num_candidates"][0] == 0
