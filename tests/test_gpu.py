"""What only a GPU can show. `dev/gpu_first.sh` runs these; its rehearsal runs them on the CPU."""

import contextlib
import os
import warnings

import pytest
import torch
from detectron2.utils.events import EventStorage
from models import batch, config, detector
from steps import boxes_of, train_heads
from torch import nn

from ohem_d2.mining.scoring import read_only

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE == "cpu" and "ON_CPU" not in os.environ, reason="needs a GPU"),
]


def moved(inputs):
    return [{k: v.to(DEVICE) if hasattr(v, "to") else v for k, v in x.items()} for x in inputs]


@pytest.mark.parametrize(
    "ohem", [{}, {"nms_scope": "agnostic"}, {"budget": "quota"}, {"screening": 1.5}]
)
def test_mines_what_the_cpu_mines(ohem, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    cfg = config(ohem=ohem)
    model, inputs = detector(cfg), batch(cfg)
    losses, here, _ = train_heads(model, inputs)
    losses_there, there, _ = train_heads(model.to(DEVICE), moved(inputs))
    for name, loss in losses.items():
        torch.testing.assert_close(losses_there[name].cpu(), loss, rtol=1e-2, atol=1e-3)
    for ours, theirs in zip(boxes_of(here), boxes_of(there)):
        assert theirs.device.type == DEVICE
        ours, theirs = (set(map(tuple, boxes.tolist())) for boxes in (ours, theirs))
        # Sums in another order may turn the order of two losses that are as good as equal.
        assert len(ours & theirs) >= 0.9 * len(ours)


@pytest.mark.parametrize("name", ["fpn", "c4-mask", "cascade", "keypoint"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision(name, dtype):
    cfg = config(name)
    model, inputs = detector(cfg).to(DEVICE), batch(cfg)
    with EventStorage() as storage, torch.autocast(DEVICE, dtype):
        losses = model(inputs)  # it compares the losses of the ranking and of the training
        sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    latest = storage.latest()
    assert latest["ohem/num_fg"][0] + latest["ohem/num_bg"][0] > 0


def test_random_state_outlives_the_read_only_pass():
    network = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5)).to(DEVICE)
    state = torch.cuda.get_rng_state if DEVICE == "cuda" else torch.get_rng_state
    before, x = state(), torch.ones(4, 8, device=DEVICE)
    with EventStorage(), read_only(network, dropout=True):
        masks = [network(x) == 0 for _ in range(2)]
    assert not torch.equal(*masks) and torch.equal(state(), before)


@contextlib.contextmanager
def waits_told():
    """Within the context PyTorch warns of each time that the host waits for the GPU."""
    if DEVICE == "cuda":
        torch.cuda.set_sync_debug_mode("warn")
    yield
    if DEVICE == "cuda":
        torch.cuda.set_sync_debug_mode("default")


def test_waits_do_not_grow_with_the_batch():
    """While RoIs are mined the host waits for the device as often for 6 images as for 2."""
    waits = {}
    for num in (2, 6):
        cfg = config(ohem={"chunk_size": 10**6, "verify": False})
        model, inputs = detector(cfg).to(DEVICE), batch(cfg, num_objects=[3] * num)
        mine = model.roi_heads.mine

        def counted(*args, mine=mine, num=num):
            with warnings.catch_warnings(record=True) as caught, waits_told():
                warnings.simplefilter("always")
                mined = mine(*args)
            waits[num] = sum("synchroniz" in str(w.message) for w in caught)
            return mined

        model.roi_heads.mine = counted
        train_heads(model, moved(inputs))
    assert waits[6] == waits[2] and (waits[2] > 0) == (DEVICE == "cuda")
