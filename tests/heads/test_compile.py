"""Heads under ``torch.compile``: they train with equal losses, and mining is a graph break."""

import pytest
import torch
from detectron2.utils.events import EventStorage
from models import batch, config, detector, gradients, roi_inputs
from steps import assert_same, step
from torch import nn

from ohem_d2 import OHEMCascadeROIHeads, OHEMMixin

pytestmark = pytest.mark.skipif(
    not hasattr(nn.Module, "compile"), reason="PyTorch 2.0 compiles no module in place"
)

# The graphs are run as they were captured: the tests are about what dynamo captures, and a compiler
# of C++ is not on every machine.
EAGER = {"backend": "eager"}

# There is less of it to capture.
SMALL_BACKBONE = ("MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64)


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def compile_model(model):
    model.compile(**EAGER)


def compile_heads(model):
    model.roi_heads.compile(**EAGER)


def compile_heads_from_outside(model):
    model.roi_heads = torch.compile(model.roi_heads, **EAGER)


def compile_parts(model):
    heads = model.roi_heads
    heads.box_head = torch.compile(heads.box_head, **EAGER)
    heads.box_predictor = torch.compile(heads.box_predictor, **EAGER)


CASES = [
    ("fpn", {}, compile_model),
    ("fpn", {}, compile_heads),
    ("fpn", {"screening": 2.0}, compile_parts),
    ("fpn", {}, compile_heads_from_outside),
    ("cascade", {"cascade_stages": "all"}, compile_heads_from_outside),
]


@pytest.mark.parametrize(
    "name, ohem, way", CASES, ids=[f"{name}-{way.__name__}" for name, _, way in CASES]
)
def test_compiled_heads_train_with_equal_losses(name, ohem, way):
    cfg = config(name, "MODEL.MASK_ON", False, *SMALL_BACKBONE, budget=8, ohem=ohem)
    inputs, results = batch(cfg), []
    for compiled in (False, True):
        model = detector(cfg)
        if compiled:
            way(model)
        steps = []
        for _ in range(1 if way is compile_model else 2):
            model.zero_grad()
            if way is compile_model:
                losses, _, events = step(model, inputs)
            else:
                with EventStorage() as storage:
                    _, losses = model.roi_heads(*roi_inputs(model, inputs))
                    sum(losses.values()).backward()
                events = storage.latest()
            mined = {k: v for k, v in events.items() if "ohem" in k and "num_" in k}
            assert mined
            steps.append((losses, mined))
        results.append((steps, gradients(model)))
        # or else nothing would be shown
        assert (torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0) == compiled
    (plain, plain_gradients), (found, found_gradients) = results
    for (losses, events), (expected, expected_events) in zip(found, plain):
        assert_same(losses, expected)
        assert events == expected_events
    names = {name.replace("_orig_mod.", ""): g for name, g in found_gradients.items()}
    assert_same(names, plain_gradients)


@pytest.mark.parametrize(
    "method",
    [OHEMMixin.label_and_sample_proposals, OHEMCascadeROIHeads._match_and_label_boxes],
    ids=lambda method: method.__qualname__,
)
def test_what_mines_is_left_to_python(method):
    """PyTorch 2.3 fails on what a later stage of a cascade does; newer versions go through it."""
    assert method._torchdynamo_disable
