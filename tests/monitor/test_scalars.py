import logging

import cv2
import numpy as np
import pytest
import torch
from detectron2.structures import Instances
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, TensorboardXWriter
from models import batch, config, detector, gradients, roi_inputs
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ohem_d2.mining.record import Record
from ohem_d2.tools.drawing import BACKGROUND, FOREGROUND
from ohem_d2.monitor.scalars import MiningEvents


def mine(events, num_fg_mined, num_bg_mined, num_fg=40, num_bg=400):
    """Log a step that mined so many of so many."""
    foreground = torch.cat([torch.ones(num_fg), torch.zeros(num_bg)]).bool()
    ranking = torch.arange(1.0, num_fg + num_bg + 1)
    chosen = torch.cat([torch.arange(num_fg_mined), num_fg + torch.arange(num_bg_mined)])
    events.log(
        Record(
            rois=[Instances((9, 9))],
            image_index=torch.zeros(num_fg + num_bg, dtype=torch.int64),
            is_foreground=foreground,
            losses={"loss_cls": ranking, "loss_box_reg": torch.zeros_like(ranking)},
            ranking=ranking,
            survivors=torch.arange(num_fg + num_bg),
            chosen=chosen,
            hard=[chosen],
        )
    )


def warnings_of(caplog, steps):
    caplog.set_level(logging.WARNING, logger="detectron2.ohem_d2")
    events = MiningEvents()
    with EventStorage() as storage:
        for step in steps:
            mine(events, *step)
            mine(events, *step)  # as a cascade does, which is no reason to warn earlier
            storage.step()
    return [r.message for r in caplog.records]


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


def test_no_foreground_to_mine_is_told(caplog):
    """As when all boxes of the data are unusable: nothing is left of nothing."""
    (message,) = warnings_of(caplog, [(0, 64, 0, 400)] * 450)
    assert "200 iterations no RoI was foreground" in message and "training data" in message


def test_nothing_mined():
    with EventStorage() as storage:
        mine(MiningEvents(), 0, 0, 0, 0)
        assert storage.latest()["ohem/cut"][0] == 0
        assert storage.latest()["ohem/num_candidates"][0] == 0


class Recorder:
    def __init__(self):
        self.minings = []

    def due(self):
        return True

    def show(self, mining):
        self.minings.append(mining)


def pictures(storage):
    return {(name, iteration): image for name, image, iteration in storage._vis_data}


@pytest.mark.parametrize("implementation", ["readonly", "loss_layer"])
@pytest.mark.parametrize("name", ["fpn", "c4", "cascade"])
def test_a_watcher_sees_what_is_trained_on(name, implementation, storage):
    cfg = config(name, "MODEL.MASK_ON", False, ohem={"implementation": implementation})
    model = detector(cfg)
    model.roi_heads.watcher = recorder = Recorder()
    inputs = batch(cfg)
    images, features, proposals, targets = roi_inputs(model, inputs)
    trained = []
    predictor = model.roi_heads.box_predictor
    predictor = predictor[0] if name == "cascade" else predictor
    losses = predictor.losses
    predictor.losses = lambda out, rois: trained.append(rois[0]) or losses(out, rois)
    model.roi_heads(images, features, proposals, targets)
    (mining,) = recorder.minings
    mined = mining.rois[mining.hard]
    assert torch.equal(mined.proposal_boxes.tensor, trained[0].proposal_boxes.tensor)
    assert torch.equal(mined.gt_classes, trained[0].gt_classes)
    assert torch.equal(mining.proposals.tensor, inputs[0]["proposals"].proposal_boxes.tensor)
    assert mining.target is targets[0]
    assert torch.equal(mining.is_foreground, mining.rois.gt_classes < 80)
    assert torch.equal(mining.image, images[0])
    weighted = mining.losses["loss_cls"] + mining.losses["loss_box_reg"]
    assert torch.equal(mining.ranking, weighted)
    assert len(mining.ranking) == len(mining.rois) == 60 + len(targets[0])
    assert set(mining.hard.tolist()) <= set(mining.survivors.tolist())
    assert (mining.ranking[mining.survivors].diff() <= 0).all()


def test_all_stages_of_a_cascade_are_shown():
    cfg = config("cascade", "VIS_PERIOD", 1, ohem={"cascade_stages": "all"})
    model = detector(cfg)
    with EventStorage() as storage:
        model(batch(cfg))
        names = [name for name, _ in pictures(storage) if "ohem" in name]
    assert names == ["ohem/mined", "stage1/ohem/mined", "stage2/ohem/mined"]


def test_pictures_come_every_period_and_change_nothing():
    results = []
    for period in (0, 2):
        cfg = config("fpn", "VIS_PERIOD", period)
        model, inputs = detector(cfg), batch(cfg)
        with EventStorage() as storage:
            for _ in range(5):
                losses = model(inputs)
                storage.step()
            drawn = [i for name, i in pictures(storage) if name == "ohem/mined"]
        sum(losses.values()).backward()
        results.append((losses, gradients(model)))
        assert drawn == ([0, 2, 4] if period else [])
        assert (model.roi_heads.watcher is None) == (period == 0)
    (losses, grads), (other_losses, other_grads) = results
    assert all(torch.equal(losses[k], other_losses[k]) for k in losses)
    assert all(torch.equal(grads[k], other_grads[k]) for k in grads)


def test_a_picture_shows_the_photograph_and_the_mined_rois():
    cfg = config("fpn", "VIS_PERIOD", 1)
    model, inputs = detector(cfg), batch(cfg)
    inputs[0]["image"][:] = torch.tensor([10.0, 100.0, 200.0]).view(3, 1, 1)  # BGR
    with EventStorage() as storage:
        model(inputs)
        picture = pictures(storage)["ohem/mined", 0]
        counts = storage.latest()
    assert picture.dtype == np.uint8 and picture.shape[0] == 3
    picture = picture[:, -800:].transpose(1, 2, 0)  # without the caption
    assert tuple(np.median(picture.reshape(-1, 3), axis=0)) == (200, 100, 10)
    for color, number in ((FOREGROUND, "ohem/num_fg"), (BACKGROUND, "ohem/num_bg")):
        assert (picture == color).all(axis=2).any() == (counts[number][0] > 0)


def test_other_processes_draw_nothing(monkeypatch):
    """They have no writer that would take the pictures out of the storage."""
    cfg = config("fpn", "VIS_PERIOD", 1)
    model = detector(cfg)
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    with EventStorage() as storage:
        model(batch(cfg))
        assert ("ohem/mined", 0) not in pictures(storage)


def test_tensorboard_has_the_picture(tmp_path):
    cfg = config("fpn", "VIS_PERIOD", 1)
    model, writer = detector(cfg), TensorboardXWriter(str(tmp_path))
    with EventStorage() as storage:
        model(batch(cfg))
        picture = pictures(storage)["ohem/mined", 0]
        writer.write()
    writer.close()
    written = EventAccumulator(str(tmp_path), {"images": 0}).Reload()
    (event,) = written.Images("ohem/mined")
    decoded = cv2.imdecode(np.frombuffer(event.encoded_image_string, np.uint8), 1)
    assert np.array_equal(decoded[:, :, ::-1].transpose(2, 0, 1), picture)
