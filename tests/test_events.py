import logging

import pytest
import torch
from detectron2.utils.events import EventStorage

from ohem_d2.events import MiningEvents


def mine(events, num_fg_mined, num_bg_mined, num_fg=40, num_bg=400):
    """Log a step that mined so many of so many."""
    foreground = torch.cat([torch.ones(num_fg), torch.zeros(num_bg)]).bool()
    ranking = torch.arange(1.0, num_fg + num_bg + 1)
    chosen = torch.cat([torch.arange(num_fg_mined), num_fg + torch.arange(num_bg_mined)])
    events.log(
        losses={"loss_cls": ranking, "loss_box_reg": torch.zeros_like(ranking)},
        ranking=ranking,
        is_foreground=foreground,
        image_index=torch.zeros(num_fg + num_bg, dtype=torch.int64),
        num_images=1,
        num_survivors=num_fg + num_bg,
        chosen=chosen,
    )


def warnings_of(caplog, steps):
    caplog.set_level(logging.WARNING, logger="detectron2.ohem_d2")
    logging.getLogger("detectron2").propagate = True
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
        ((0, 64, 40, 400), "foreground", "MAX_NEG_PER_POS"),
    ],
)
def test_starvation_is_warned_of_once_and_names_a_key(caplog, step, kind, key):
    assert warnings_of(caplog, [step] * 200) == []
    (message,) = warnings_of(caplog, [step] * 900)
    assert kind in message and key in message


@pytest.mark.parametrize(
    "steps",
    [
        [(32, 32)] * 450,
        [(3, 61, 3, 400)] * 450,  # all the foreground there is
        [(0, 64, 0, 400)] * 450,  # there is none
        [(64, 0, 64, 0)] * 450,  # there is no background
        [(63, 1, 100, 400)] * 60 + [(32, 32)] * 390,  # for a while at the start
    ],
)
def test_no_false_alarm(caplog, steps):
    assert warnings_of(caplog, steps) == []


def test_nothing_mined():
    with EventStorage() as storage:
        mine(MiningEvents(), 0, 0, 0, 0)
        assert storage.latest()["ohem/cut"][0] == 0
        assert storage.latest()["ohem/num_candidates"][0] == 0
