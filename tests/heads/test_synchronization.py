"""
Operations that make the host wait for the device. They can be counted on a CPU, where they cost
nothing.
"""

import copy
from collections import Counter

import pytest
import torch
from detectron2.utils.events import EventStorage
from models import batch, config, detector, roi_inputs
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

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
    with EventStorage(), torch.no_grad(), Waits() as counter, Lists(counter.counts):
        call()
    return +counter.counts


@pytest.mark.parametrize("num_rois", [60, 240])
@pytest.mark.parametrize("num_images", [1, 3])
def test_mining_waits_as_often_for_any_number_of_images_and_rois(num_images, num_rois):
    cfg = config(ohem={"chunk_size": 1000})  # one chunk
    model = detector(cfg)
    heads = model.roi_heads
    inputs = batch(cfg, num_objects=(3, 4, 5)[:num_images], num_proposals=num_rois)
    _, features, proposals, targets = roi_inputs(model, inputs)

    # Detectron2's own share: its labelling, which mining asks for twice, image by image, and the
    # head's forward.
    plain = detector(config(plain=True)).roi_heads
    plain._sample_proposals = lambda matched_idxs, *_: (matched_idxs[:0], matched_idxs[:0])
    labelling = waits(
        lambda: plain.label_and_sample_proposals([copy.copy(p) for p in proposals], targets)
    )
    scoring = waits(lambda: heads.score_rois(features, [copy.copy(p) for p in proposals]))

    heads._features = features
    counts = waits(
        lambda: heads.label_and_sample_proposals([copy.copy(p) for p in proposals], targets)
    )
    for name, count in labelling.items():
        counts[name] -= 2 * count
    counts.subtract(scoring)
    assert +counts == {
        # which RoIs are candidates; which are foreground, once for each chunk
        "nonzero": 2,
        # Detectron2 checks the widths of the RoIs that it encodes, once for each chunk
        "_local_scalar_dense": 1,
        # how many candidates and how many mined RoIs each image has; what is logged
        "tolist": 3,
        # how many survive
        "nms": 1,
        # how many the budget takes
        "index": 1,
    }
