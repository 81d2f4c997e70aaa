import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage, get_event_storage
from models import autocasts_to
from torch import nn

from ohem_d2 import CannotMine, per_roi_losses
from ohem_d2.mining import scoring
from ohem_d2.mining.scoring import (
    by_location,
    chunk_size_for,
    in_chunks,
    losses_of_all,
    read_only,
)


def instances(*sizes):
    images = []
    for i, n in enumerate(sizes):
        boxes = torch.arange(4.0 * n).reshape(n, 4) + 100 * i
        images.append(Instances((9, 9), proposal_boxes=Boxes(boxes)))
    return images


@pytest.mark.parametrize("sizes", [(7, 5), (0, 3), (3, 0, 0, 4), (0, 0), (1,)])
@pytest.mark.parametrize("chunk_size", [1, 2, 5, 100])
def test_chunks_join_to_the_whole(sizes, chunk_size):
    whole = instances(*sizes)
    chunks = list(in_chunks(whole, chunk_size))
    assert len(chunks) >= 1
    joined = []
    for chunk in chunks:
        assert len(chunk) == len(sizes)
        assert sum(len(part) for part in chunk) <= chunk_size
        joined += [part.proposal_boxes.tensor for part in chunk]
    # In flat order the chunks are consecutive runs of all RoIs.
    expected = torch.cat([image.proposal_boxes.tensor for image in whole])
    torch.testing.assert_close(torch.cat(joined), expected)


def network():
    return nn.Sequential(
        nn.Linear(6, 12),
        nn.BatchNorm1d(12),
        nn.utils.parametrizations.spectral_norm(nn.Linear(12, 12)),
        nn.Dropout(0.5),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(12, 2),
    )


class Observer(nn.Module):
    """Changes its buffers in evaluation mode, too, in each of the ways there are."""

    def __init__(self):
        super().__init__()
        self.register_buffer("in_place", torch.zeros(3))
        self.register_buffer("reassigned", torch.zeros(3))
        self.register_buffer("resized", torch.zeros(0))

    def forward(self, x):
        self.in_place += 1
        self.reassigned = self.reassigned + 1
        self.resized.resize_(len(x)).fill_(1.0)
        return x


def snapshot(module):
    state = {name: value.clone() for name, value in module.state_dict().items()}
    modes = [m.training for m in module.modules()]
    return state, modes, torch.get_rng_state(), random.getstate(), np.random.get_state()[1]


@pytest.mark.parametrize("dropout", [True, False])
def test_leaves_no_trace(storage, dropout):
    module = nn.Sequential(network(), Observer())
    module[0][4].eval()  # some parts may be frozen on purpose
    buffers = list(module.buffers())
    state, modes, rng, python, numpy = snapshot(module)
    with read_only(module, dropout=dropout):
        get_event_storage().put_scalar("from_scoring", 1.0)
        out = module(torch.rand(20, 6))
        torch.rand(3), random.random(), np.random.rand()
    assert not out.requires_grad
    after, modes_after, rng_after, python_after, numpy_after = snapshot(module)
    assert modes_after == modes
    assert torch.equal(rng_after, rng) and python_after == python and (numpy_after == numpy).all()
    for name in state:
        assert torch.equal(after[name], state[name]), name
    assert all(a is b for a, b in zip(module.buffers(), buffers))  # the very same tensors
    assert storage.latest() == {}


def test_a_pending_backward_pass_does_not_notice(storage):
    """A buffer that is saved for it keeps its version, though its values are put back."""

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("scale", torch.full((3,), 2.0))

        def forward(self, x):
            return x * self.scale

    module, weight = Scaled(), torch.ones(3, requires_grad=True)
    loss = module(weight).sum()
    with read_only(module):
        module(torch.rand(3))
    loss.backward()
    assert weight.grad.tolist() == [2.0] * 3


def test_leaves_no_trace_when_it_fails(storage):
    module = network()
    with pytest.raises(RuntimeError), read_only(module, dropout=True):
        module(torch.rand(20, 7))
    assert all(m.training for m in module.modules())
    assert get_event_storage() is storage
    assert torch.is_grad_enabled()
    hooks = module[1]._forward_pre_hooks
    module[1].register_forward_pre_hook(lambda *_: None)
    assert len(hooks) == 1  # it is the layer's own dictionary again


def run(module, x, chunk_size, dropout=False):
    with EventStorage(), read_only(module, dropout=dropout):
        return torch.cat([module(part) for part in x.split(chunk_size)])


@pytest.mark.parametrize("chunk_size", [1, 7, 64, 100, 199])
def test_batch_norm_does_not_depend_on_the_chunk(chunk_size):
    module, x = network(), torch.rand(200, 6)
    torch.testing.assert_close(run(module, x, chunk_size), run(module, x, 200))


@pytest.mark.parametrize(
    "layer", [nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout], ids=lambda c: c.__name__
)
def test_dropout_is_that_of_pytorch_with_masks_of_its_own(layer):
    shape = {nn.Dropout1d: (50, 8, 3), nn.Dropout2d: (50, 8, 3, 3)}.get(layer, (500, 40))
    module, x = nn.Sequential(layer(0.3)), torch.ones(shape)
    torch.manual_seed(1)
    once, again, training = run(module, x, 20, True), run(module, x, 20, True), module(x)
    other = run(module, x, 20, True)
    # They follow from the random state, and are neither those of training nor of the next pass.
    assert torch.equal(once, again)
    assert not torch.equal(once, training) and not torch.equal(once, other)
    assert torch.equal(run(module, x, 20), x)
    assert set(once.unique().tolist()) == set(training.unique().tolist())
    assert len(once.flatten(1).unique(dim=0)) > len(x) // 2  # every RoI has a mask of its own


def test_what_does_not_train_has_no_dropout():
    module, x = nn.Sequential(nn.Dropout(0.3)).eval(), torch.ones(5, 4)
    assert torch.equal(run(module, x, 5, True), x)


def test_hooks_of_batch_norms_rest():
    """PreciseBN counts the uses of a layer by one."""
    module, uses = nn.BatchNorm1d(4), []
    module.register_forward_pre_hook(lambda *_: uses.append(1))
    run(module, torch.rand(6, 4), 2)
    assert uses == []
    module(torch.rand(6, 4))
    assert uses == [1]


@pytest.mark.parametrize("precision, dtype", [("", torch.bfloat16), ("float16", torch.float16)])
def test_autocast_remembers_no_cast_of_the_pass(storage, precision, dtype):
    if dtype == torch.float16 and not autocasts_to(dtype):
        pytest.skip("PyTorch 2.0 cannot, on a CPU")
    module, x = nn.Linear(4, 4), torch.rand(3, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        module(x)  # a cast that must not be taken for one of the other type
        with read_only(module, precision=precision):
            assert module(x).dtype == dtype
        out = module(x)
        out.sum().backward()
    assert out.dtype == torch.bfloat16
    assert module.weight.grad is not None and module.weight.grad.abs().sum() > 0


# ---- the losses of all RoIs, of a table instead of a network ------------------------------------


class Table(nn.Module):
    """Its predictions are fields of the RoIs."""

    def forward(self, rois):
        return tuple(torch.cat([r.get(f) for r in rois]) for f in ("cls", "loc"))


@per_roi_losses.register(Table)
def _(table, predictions, proposals):
    return {"loss_cls": predictions[0], "loss_box_reg": predictions[1]}


@pytest.mark.parametrize("chunk_size", [1, 4, 100])
def test_losses_keep_the_order_of_the_rois(storage, chunk_size):
    table, rois, calls = Table(), instances(9, 0, 4), []
    for image in rois:
        image.cls, image.loc = torch.rand(len(image)), torch.rand(len(image))

    def score(chunk):
        calls.append(sum(map(len, chunk)))
        return table, table(chunk)

    losses = losses_of_all(table, score, rois, chunk_size)
    assert torch.equal(losses["loss_cls"], torch.cat([image.cls for image in rois]))
    assert torch.equal(losses["loss_box_reg"], torch.cat([image.loc for image in rois]))
    assert sum(calls) == 13 and max(calls) <= chunk_size


def test_parts_that_are_sharded_by_themselves_are_refused(storage):
    class FullyShardedDataParallel(nn.Sequential):
        """By its name, as PyTorch's first way to shard"""

    heads = nn.ModuleDict({"box_head": FullyShardedDataParallel()})
    with pytest.raises(CannotMine, match="box_head is sharded by itself: shard the ROI heads"):
        losses_of_all(heads, lambda rois: None, instances(3), 10)
    whole = FullyShardedDataParallel(Table())
    rois = instances(3)
    rois[0].cls = rois[0].loc = torch.rand(3)
    losses_of_all(whole, lambda chunk: (whole[0], whole[0](chunk)), rois, 10)


def test_neighbours_come_together(monkeypatch):
    """Row by row of tiles, each from left to right; RoIs of one tile keep their order."""
    monkeypatch.setattr(scoring, "TILE", 128)
    centers = torch.tensor([(700, 40), (10, 300), (20, 10), (130, 100), (100, 90), (40, 290)])
    assert by_location(centers.float()).tolist() == [2, 4, 3, 0, 1, 5]
    assert by_location(torch.zeros(0, 2)).tolist() == []


def test_chunk_size_for():
    pooler = ROIPooler(7, [1 / 16], 0, "ROIAlignV2")
    heads = nn.ModuleDict({"pooler": pooler})
    # 32 MiB of pooled RoIs, 200 MiB on a GPU
    assert chunk_size_for(heads, torch.empty(1, 256, 9, 9), 512) == 2**25 // (256 * 49 * 4)
    assert chunk_size_for(heads, torch.empty(1, 256, 9, 9), 1000) == 1000
    assert chunk_size_for(nn.Identity(), torch.empty(1, 256, 9, 9), 512) == 512
    on_a_gpu = SimpleNamespace(
        shape=(1, 256, 9, 9), device=torch.device("cuda"), element_size=lambda: 4
    )
    assert chunk_size_for(heads, on_a_gpu, 512) >= 4000
