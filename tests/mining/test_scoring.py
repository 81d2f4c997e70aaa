from types import SimpleNamespace

import pytest
import torch
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage, get_event_storage
from torch import nn

from ohem_d2.mining import scoring
from ohem_d2.mining.scoring import (
    automatic_chunk_size,
    by_location,
    in_chunks,
    in_training_mode,
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


def snapshot(module):
    state = {name: value.clone() for name, value in module.state_dict().items()}
    return state, [m.training for m in module.modules()], torch.get_rng_state()


@pytest.mark.parametrize(
    "context",
    [lambda m: read_only(m, seed=3), read_only, in_training_mode],
    ids=["seeded", "read_only", "in_training_mode"],
)
def test_leaves_no_trace(storage, context):
    module = network()
    module[4].eval()  # some parts may be frozen on purpose
    if context is in_training_mode:
        del module[2]  # the statistic of a spectral norm is no batch normalization's
    state, modes, rng = snapshot(module)
    with context(module):
        get_event_storage().put_scalar("from_scoring", 1.0)
        out = module(torch.rand(20, 6))
        torch.rand(3)
    assert not out.requires_grad
    after, modes_after, rng_after = snapshot(module)
    assert modes_after == modes
    assert torch.equal(rng_after, rng)
    for name in state:
        assert torch.equal(after[name], state[name]), name
    assert storage.latest() == {}


def test_leaves_no_trace_when_it_fails(storage):
    module = network()
    with pytest.raises(RuntimeError), read_only(module, seed=3):
        module(torch.rand(20, 7))
    assert all(m.training for m in module.modules())
    assert get_event_storage() is storage
    assert torch.is_grad_enabled() and torch.is_autocast_cache_enabled()


def run(module, x, chunk_size, seed=3):
    with EventStorage(), read_only(module, seed=seed):
        return torch.cat([module(part) for part in x.split(chunk_size)])


@pytest.mark.parametrize("chunk_size", [1, 7, 64, 100, 199])
def test_batch_norm_does_not_depend_on_the_chunk(chunk_size):
    module, x = network(), torch.rand(200, 6)
    torch.testing.assert_close(run(module, x, chunk_size, None), run(module, x, 200, None))


@pytest.mark.parametrize(
    "layer", [nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout], ids=lambda c: c.__name__
)
def test_dropout_is_that_of_pytorch_from_the_seed(layer):
    shape = {nn.Dropout1d: (50, 8, 3), nn.Dropout2d: (50, 8, 3, 3)}.get(layer, (500, 40))
    module, x = nn.Sequential(layer(0.3)), torch.ones(shape)
    once, again, other = run(module, x, 20), run(module, x, 20), run(module, x, 20, seed=4)
    assert torch.equal(once, again) and not torch.equal(once, other)
    assert torch.equal(run(module, x, 20, seed=None), x)
    torch.manual_seed(3)
    torch.testing.assert_close(once, torch.cat([module(part) for part in x.split(20)]))
    assert len(once.flatten(1).unique(dim=0)) > len(x) // 2  # every RoI has a mask of its own


def test_what_does_not_train_has_no_dropout():
    module, x = nn.Sequential(nn.Dropout(0.3)).eval(), torch.ones(5, 4)
    assert torch.equal(run(module, x, 5), x)


def test_training_mode_without_chance():
    class Doubles(nn.Module):
        def forward(self, x):
            return 2 * x if self.training else x

    module = nn.Sequential(Doubles(), nn.Dropout(0.5), nn.BatchNorm1d(4))
    module[2].running_mean += 1
    x = torch.rand(3, 4)
    with EventStorage(), in_training_mode(module):
        found = module(x)
    expected = (2 * x - 1) / (1 + module[2].eps) ** 0.5
    torch.testing.assert_close(found, expected)


def test_autocast_remembers_no_cast_without_gradient(storage):
    module, x = nn.Linear(4, 4), torch.rand(3, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with read_only(module, seed=0):
            assert not torch.is_autocast_cache_enabled()
            assert module(x).dtype == torch.bfloat16
        assert torch.is_autocast_cache_enabled()
        module(x).sum().backward()
    assert module.weight.grad is not None and module.weight.grad.abs().sum() > 0


def test_neighbours_come_together(monkeypatch):
    """Row by row of tiles, each from left to right; RoIs of one tile keep their order."""
    monkeypatch.setattr(scoring, "TILE", 128)
    centers = torch.tensor([(700, 40), (10, 300), (20, 10), (130, 100), (100, 90), (40, 290)])
    assert by_location(centers.float()).tolist() == [2, 4, 3, 0, 1, 5]
    assert by_location(torch.zeros(0, 2)).tolist() == []


def test_automatic_chunk_size():
    pooler = ROIPooler(7, [1 / 16], 0, "ROIAlignV2")
    heads = nn.ModuleDict({"pooler": pooler})
    # 32 MiB of pooled RoIs, 200 MiB on a GPU
    assert automatic_chunk_size(heads, torch.empty(1, 256, 9, 9), 512) == 2**25 // (256 * 49 * 4)
    assert automatic_chunk_size(heads, torch.empty(1, 256, 9, 9), 1000) == 1000
    assert automatic_chunk_size(nn.Identity(), torch.empty(1, 256, 9, 9), 512) == 512
    on_a_gpu = SimpleNamespace(
        shape=(1, 256, 9, 9), device=torch.device("cuda"), element_size=lambda: 4
    )
    assert automatic_chunk_size(heads, on_a_gpu, 512) >= 4000
