import pytest
import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import get_event_storage
from torch import nn

from ohem_d2.mining import scoring
from ohem_d2.mining.scoring import ReadOnlyPass, by_location, in_chunks


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


def test_leaves_no_trace(storage):
    module = network()
    module[4].eval()  # some parts may be frozen on purpose
    state, modes, rng = snapshot(module)
    with ReadOnlyPass(module, dropout=True, seed=3) as readonly:
        get_event_storage().put_scalar("from_scoring", 1.0)
        out = module(torch.rand(20, 6))
        torch.rand(3)
        readonly.next_chunk(20)
    assert not out.requires_grad
    after, modes_after, rng_after = snapshot(module)
    assert modes_after == modes
    assert torch.equal(rng_after, rng)
    for name in state:
        assert torch.equal(after[name], state[name]), name
    assert storage.latest() == {}
    assert all(not m._forward_hooks for m in module.modules())


def test_leaves_no_trace_when_it_fails(storage):
    module = network()
    with pytest.raises(RuntimeError), ReadOnlyPass(module, dropout=True, seed=3):
        module(torch.rand(20, 7))
    assert all(m.training for m in module.modules())
    assert all(not m._forward_hooks for m in module.modules())
    assert get_event_storage() is storage
    assert torch.is_grad_enabled() and torch.is_autocast_cache_enabled()


def run(module, x, chunk_size, seed=3, dropout=True):
    parts = []
    with ReadOnlyPass(module, dropout=dropout, seed=seed) as readonly:
        for part in x.split(chunk_size):
            parts.append(module(part))
            readonly.next_chunk(len(part))
    return torch.cat(parts)


@pytest.mark.parametrize("chunk_size", [1, 7, 64, 100, 128, 199])
def test_dropout_and_batch_norm_do_not_depend_on_the_chunk(chunk_size):
    module, x = network(), torch.rand(200, 6)
    torch.testing.assert_close(run(module, x, chunk_size), run(module, x, 200))


def test_dropout_masks():
    module, x = nn.Sequential(nn.Dropout(0.3)), torch.ones(500, 40)
    once, again, other = run(module, x, 500), run(module, x, 500), run(module, x, 500, seed=4)
    assert torch.equal(once, again) and not torch.equal(once, other)
    torch.testing.assert_close(once.unique(), torch.tensor([0.0, 1 / 0.7]))
    assert abs(float((once == 0).float().mean()) - 0.3) < 0.02
    assert len(once.unique(dim=0)) == 500  # every RoI has a mask of its own
    assert torch.equal(run(module, x, 500, dropout=False), x)
    # Layers in sequence have different masks: both drop in far more places than one.
    twice = run(nn.Sequential(nn.Dropout(0.3), nn.Dropout(0.3)), x, 500)
    assert abs(float((twice == 0).float().mean()) - 0.51) < 0.02


def test_channels_drop_as_a_whole():
    out = run(nn.Sequential(nn.Dropout2d(0.5)), torch.ones(50, 8, 3, 3), 7)
    per_channel = out.flatten(2)
    assert torch.equal(per_channel.amin(dim=2), per_channel.amax(dim=2))
    assert set(out.unique().tolist()) == {0.0, 2.0}


def test_autocast_remembers_no_cast_without_gradient():
    module, x = nn.Linear(4, 4), torch.rand(3, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with ReadOnlyPass(module, dropout=True, seed=0):
            assert not torch.is_autocast_cache_enabled()
            assert module(x).dtype == torch.bfloat16
        assert torch.is_autocast_cache_enabled()
        module(x).sum().backward()
    assert module.weight.grad is not None and module.weight.grad.abs().sum() > 0


def test_neighbours_come_together(monkeypatch):
    """Row by row of tiles, each from left to right; RoIs of one tile keep their order."""
    monkeypatch.setattr(scoring, "_TILE", 128)
    centers = [(700, 40), (10, 300), (20, 10), (130, 100), (100, 90), (40, 290)]
    boxes = torch.tensor([[x - 5.0, y - 5.0, x + 5.0, y + 5.0] for x, y in centers])
    assert by_location(boxes).tolist() == [2, 4, 3, 0, 1, 5]
    assert by_location(torch.zeros(0, 4)).tolist() == []
