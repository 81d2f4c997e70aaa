"""
Operations that make the host wait for the device. They can be counted on a CPU, where they cost
nothing.
"""

from collections import Counter

import pytest
import torch
from models import batch, config, detector, roi_inputs
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ohem_d2.mining import selection

# aten::equal and the like are not used; they would be found here if they were.
WAITING = {
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "equal",
    "is_nonzero",
    "unique_dim",
    "_unique2",
    "bincount",
    "repeat_interleave",
    "nms",
}


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch):
    """One NMS for all images, as on a GPU."""
    monkeypatch.setattr(selection, "GROUP_BY_GROUP", ())


class Waits(TorchDispatchMode):
    """Counts them by name; boolean indexing is counted as "index"."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in WAITING:
            # repeat_interleave waits for the length of its result unless it is told
            self.counts[name] += (kwargs or {}).get("output_size") is None
        elif name in ("index", "index_put", "index_put_"):
            masks = (i for i in args[1] if i is not None)
            self.counts["index"] += any(i.dtype in (torch.bool, torch.uint8) for i in masks)
        return func(*args, **(kwargs or {}))


class Lists(TorchFunctionMode):
    """Counts ``Tensor.tolist``, which never reaches the dispatcher on a CPU."""

    def __init__(self, counts):
        super().__init__()
        self.counts = counts

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.counts["tolist"] += func is torch.Tensor.tolist
        return func(*args, **(kwargs or {}))


def waits(call):
    """Their counts, and what the call returned."""
    with Waits() as counter, Lists(counter.counts):
        result = call()
    return +counter.counts, result


@pytest.mark.parametrize("num_rois", [60, 240])
@pytest.mark.parametrize("num_images", [1, 3])
def test_mining_waits_as_often_for_any_number_of_images_and_rois(num_images, num_rois, storage):
    cfg = config(ohem={"chunk_size": 1000})  # one chunk
    model = detector(cfg)
    heads, mine = model.roi_heads, model.roi_heads.mine
    inputs = batch(cfg, num_objects=(3, 4, 5)[:num_images], num_proposals=num_rois)
    images, features, proposals, targets = roi_inputs(model, inputs)
    found = []

    def counted(rois, targets):
        scoring, _ = waits(lambda: heads.score_rois(features, rois))
        counts, mined = waits(lambda: mine(rois, targets))
        counts.subtract(scoring)
        found.append(+counts)
        return mined

    heads.mine = counted
    heads(images, features, proposals, targets)
    assert found == [
        {
            "nonzero": 1,  # which RoIs are candidates
            # Detectron2 checks the widths of the RoIs that it encodes, once for each chunk
            "_local_scalar_dense": 1,
            # how many candidates and how many mined RoIs each image has; what is logged
            "tolist": 3,
            "nms": 1,  # how many survive
            "index": 1,  # how many the budget takes
        }
    ]


@pytest.mark.parametrize("chunk_size, num_chunks, most", [(0, 1, 33), (1500, 3, 45)])
def test_a_step_waits_little_more_than_the_plain_heads(chunk_size, num_chunks, most, storage):
    def step(plain):
        cfg = config(plain=plain, budget=128, ohem={"chunk_size": chunk_size})
        model = detector(cfg)
        inputs = batch(cfg, (8, 8), size=(480, 640), num_proposals=2000)
        heads = model.roi_heads
        for _ in range(2):  # the third step compares no losses
            heads(*roi_inputs(model, inputs))
        arguments, passes = roi_inputs(model, inputs), []
        model.roi_heads.box_head.register_forward_hook(lambda *_: passes.append(1))
        counts, _ = waits(lambda: model.roi_heads(*arguments))
        return counts.total(), len(passes)

    assert step(plain=True) == (29, 1)  # those of Detectron2 alone
    total, passes = step(plain=False)
    assert total <= most and passes == num_chunks + 1
