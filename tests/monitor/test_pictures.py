import dataclasses

import cv2
import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, TensorboardXWriter
from models import batch, config, detector, gradients, roi_inputs
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ohem_d2.mining.record import Mining
from ohem_d2.monitor.pictures import BACKGROUND, FOREGROUND, GROUND_TRUTH, draw_mining


class Recorder:
    def __init__(self):
        self.minings = []

    def due(self):
        return True

    def show(self, mining):
        self.minings.append(mining)


def pictures(storage):
    return {(name, iteration): image for name, image, iteration in storage._vis_data}


@pytest.mark.parametrize("name", ["fpn", "c4", "cascade"])
def test_a_watcher_sees_what_is_trained_on(name, storage):
    cfg = config(name, "MODEL.MASK_ON", False)
    model = detector(cfg)
    model.roi_heads.watcher = recorder = Recorder()
    inputs = batch(cfg)
    images, features, proposals, targets = roi_inputs(model, inputs)
    trained = []
    predictor = model.roi_heads.box_predictor
    predictor = predictor[0] if name == "cascade" else predictor
    losses = predictor.losses
    predictor.losses = lambda out, rois: trained.extend(rois) or losses(out, rois)
    model.roi_heads(images, features, proposals, targets)
    (mining,) = recorder.minings
    assert mining.images is images and mining.targets is targets
    start = 0
    for i, rois in enumerate(mining.rois):
        mined = rois[mining.hard_of_image[i]]
        assert torch.equal(mined.proposal_boxes.tensor, trained[i].proposal_boxes.tensor)
        assert torch.equal(mined.gt_classes, trained[i].gt_classes)
        assert len(rois) == len(mining.proposals[i]) == 60 + len(targets[i])
        places = mining.hard[mining.image_index[mining.hard] == i] - start
        assert torch.equal(places, mining.hard_of_image[i])
        start += len(rois)
    assert torch.equal(mining.is_foreground, torch.cat([r.gt_classes for r in mining.rois]) < 80)
    weighted = mining.losses["loss_cls"] + mining.losses["loss_box_reg"]
    assert torch.equal(mining.ranking, weighted) and len(weighted) == start
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
    assert picture.dtype == np.uint8 and picture.shape == (3, 800, 1067)
    picture = picture.transpose(1, 2, 0)
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


# ---- drawing alone ------------------------------------------------------------------------------


def selection(boxes, foreground, survivors, hard, size=(100, 200)):
    """On one image that the network sees at half its size."""
    rois = Instances(size, proposal_boxes=Boxes(torch.tensor(boxes)))
    objects = Instances(size, gt_boxes=Boxes(torch.zeros(0, 4)), gt_classes=torch.zeros(0))
    ranking = torch.arange(len(boxes), 0, -1.0)
    return Mining(
        images=[torch.empty(3, *size)],
        proposals=[rois],
        targets=[objects],
        rois=[rois],
        image_index=torch.zeros(len(boxes), dtype=torch.int64),
        is_foreground=torch.tensor(foreground, dtype=torch.bool),
        losses={"loss_cls": ranking, "loss_box_reg": ranking * 0},
        ranking=ranking,
        survivors=torch.tensor(survivors, dtype=torch.int64),
        hard=torch.tensor(hard, dtype=torch.int64),
        hard_of_image=[torch.tensor(hard, dtype=torch.int64)],
    )


BOXES = [[10.0, 10, 40, 40], [60, 20, 90, 60], [100, 50, 140, 90], [150, 10, 190, 40]]


def test_each_kind_has_its_colour_and_the_photograph_is_not_touched():
    image = np.full((200, 400, 3), 90, np.uint8)
    found = selection(BOXES, [True, False, True, True], [0, 1, 2], [0, 1])
    objects = Instances((100, 200), gt_boxes=Boxes(torch.tensor([[20.0, 70, 50, 95]])))
    found = dataclasses.replace(found, targets=[objects])
    picture = draw_mining(found, image)
    assert picture.shape == (800, 1600, 3) and (image == 90).all()  # eight times what is seen

    def at(x, y):
        return tuple(picture[round(8 * y), round(8 * x)])

    assert at(25, 10) == FOREGROUND and at(75, 20) == BACKGROUND and at(35, 70) == GROUND_TRUTH
    r, g, b = map(int, at(120, 50))
    assert r > 120 and g > 110 and b < 90  # a survivor: tinted yellow
    r, g, b = map(int, at(170, 10))
    assert r == g == b > 90  # any other proposal: tinted grey
    assert at(25, 25) == (90, 90, 90)


def test_those_with_a_label_stand_out():
    image = np.full((200, 400, 3), 90, np.uint8)
    found = selection(BOXES, [True] * 4, [0, 1, 2, 3], [0, 1, 2])
    plain, labelled = draw_mining(found, image), draw_mining(found, image, ["1.23", "0.45"])

    def blue(picture, i):
        x0, y0, x1, y1 = (round(8 * v) for v in BOXES[i])
        part = picture[y0 - 20 : y1 + 20, x0 - 20 : x1 + 20]
        return (part == FOREGROUND).all(axis=2).sum()

    assert blue(labelled, 0) > 1.5 * blue(plain, 0) and blue(labelled, 2) < blue(plain, 2)


def test_nothing_to_draw():
    image = np.full((50, 50, 3), 90, np.uint8)
    found = selection(np.zeros((0, 4), np.float32), [], [], [], (50, 50))
    assert (draw_mining(found, image) == 90).all()
