import math

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ohem_d2 import select_hard_examples
from ohem_d2.mining import selection
from ohem_d2.mining.selection import nms_by_loss, per_image, quota

SCOPES = ("class", "agnostic", "none")


@st.composite
def rois(draw):
    """Boxes that often overlap, nest, coincide or are degenerate; losses with ties and NaN."""
    n = draw(st.integers(0, 40))
    corner = st.integers(0, 12).map(lambda v: v * 4.0)
    size = st.sampled_from([0.0, 1.0, 4.0, 8.0, 8.5, 16.0, 40.0])
    boxes = []
    for _ in range(n):
        x, y = draw(corner), draw(corner)
        boxes.append([x, y, x + draw(size), y + draw(size)])
    loss = st.one_of(
        st.sampled_from([0.0, 0.5, 1.0, math.nan, math.inf]),
        st.floats(0, 10, width=32),
    )
    losses = draw(st.lists(loss, min_size=n, max_size=n))
    classes = draw(st.lists(st.integers(-1, 3), min_size=n, max_size=n))
    return losses, boxes, classes


@given(
    rois(), st.integers(1, 50), st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0]), st.sampled_from(SCOPES)
)
@settings(max_examples=400, deadline=None)
def test_equals_the_plain_loop(data, num_samples, thresh, scope):
    losses, boxes, classes = data
    chosen = select_hard_examples(
        torch.tensor(losses, dtype=torch.float32),
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(classes, dtype=torch.int64),
        num_samples,
        nms_thresh=thresh,
        nms_scope=scope,
    )
    expected = reference.select(losses, boxes, classes, num_samples, thresh, scope)
    assert chosen.dtype == torch.int64
    assert chosen.tolist() == expected


@pytest.mark.parametrize("scope", SCOPES)
def test_five_thousand_rois(scope):
    rng = np.random.default_rng(0)
    xy = rng.uniform(0, 800, (5000, 2)).astype(np.float32)
    boxes = np.concatenate([xy, xy + rng.uniform(1, 200, (5000, 2)).astype(np.float32)], axis=1)
    losses = rng.exponential(size=5000).astype(np.float32)
    classes = rng.integers(0, 81, 5000)
    chosen = select_hard_examples(
        torch.tensor(losses), torch.tensor(boxes), torch.tensor(classes), 128, nms_scope=scope
    )
    # The loop only has to go on until it has its 128, so the hardest 1000 are enough for it.
    hardest = np.argsort(-losses, kind="stable")[:1000]
    expected = reference.select(
        losses[hardest], boxes[hardest].astype(float), classes[hardest], 128, 0.7, scope
    )
    assert chosen.tolist() == hardest[expected].tolist()


def test_iou_at_the_threshold_is_not_above_it():
    # IoU 0.7 to the last bit: 7 of 10 columns.
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 7.0, 10.0]])
    losses, classes = torch.tensor([2.0, 1.0]), torch.tensor([0, 0])
    assert select_hard_examples(losses, boxes, classes, 2, nms_thresh=0.7).tolist() == [0, 1]
    assert select_hard_examples(losses, boxes, classes, 2, nms_thresh=0.69).tolist() == [0]


def test_many_groups_keep_their_precision():
    # Two boxes of IoU 0.7 + 1e-4, in the last of 16 x 81 groups, far from the origin, where
    # float32 coordinates shifted apart would be rounded to a quarter of a pixel.
    pair = torch.tensor([[1300.0, 1300.0, 1310.0, 1310.0], [1300.0, 1300.0, 1310.0, 1307.001]])
    filler = torch.tensor([[0.0, 0.0, 1333.0, 1333.0]]).repeat(16 * 81, 1)
    boxes = torch.cat([filler, pair])
    image = torch.arange(16).repeat_interleave(81)
    classes = torch.arange(81).repeat(16)
    kept = nms_by_loss(
        torch.arange(len(boxes), 0, -1).float(),
        boxes,
        torch.cat([classes, torch.tensor([80, 80])]),
        torch.cat([image, torch.tensor([15, 15])]),
        nms_thresh=0.7,
        nms_scope="class",
    )
    assert len(filler) in kept and len(filler) + 1 not in kept
    assert len(kept) == len(filler) + 1


@given(st.lists(rois(), min_size=1, max_size=4), st.sampled_from(SCOPES))
@settings(max_examples=100, deadline=None)
def test_images_do_not_suppress_each_other(images, scope):
    images = [[(loss, b, c) for loss, b, c in zip(*image) if c >= 0] for image in images]
    flat = [roi for image in images for roi in image]
    index = torch.tensor([i for i, image in enumerate(images) for _ in image], dtype=torch.int64)
    kept = nms_by_loss(
        torch.tensor([loss for loss, _, _ in flat], dtype=torch.float32),
        torch.tensor([b for _, b, _ in flat], dtype=torch.float32).reshape(-1, 4),
        torch.tensor([c for _, _, c in flat], dtype=torch.int64),
        index,
        nms_thresh=0.5,
        nms_scope=scope,
    )
    start = 0
    for i, image in enumerate(images):
        losses, boxes, classes = zip(*image) if image else ((), (), ())
        expected = reference.select(losses, boxes, classes, len(image), 0.5, scope)
        assert (kept[index[kept] == i] - start).tolist() == expected
        start += len(image)


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=4),
    st.integers(1, 20),
    st.sampled_from([0.0, 0.25, 0.3, 1.0]),
    st.randoms(use_true_random=False),
)
@settings(max_examples=600, deadline=None)
def test_budgets_equal_the_plain_loops(sizes, num_samples, fraction, random):
    images = [i for i, size in enumerate(sizes) for _ in range(size)]
    random.shuffle(images)  # they are interleaved in the order of the losses
    foreground = [random.random() < 0.3 for _ in images]
    arguments = (torch.rand(len(images)), torch.tensor(foreground, dtype=torch.bool))
    arguments += (torch.tensor(images, dtype=torch.int64), len(sizes), num_samples)
    places = [[j for j, image in enumerate(images) if image == i] for i in range(len(sizes))]

    taken = per_image(*arguments)
    expected = sorted(j for of_image in places for j in of_image[:num_samples])
    assert torch.nonzero(taken).squeeze(1).tolist() == expected

    taken, expected = quota(fraction)(*arguments), []
    for of_image in places:
        hard = [j for j in of_image if foreground[j]][: int(num_samples * fraction)]
        background = [j for j in of_image if not foreground[j]]
        expected += hard + background[: num_samples - len(hard)]
    assert torch.nonzero(taken).squeeze(1).tolist() == sorted(expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@given(rois(), st.sampled_from(SCOPES))
@settings(max_examples=50, deadline=None)
def test_same_on_cuda(data, scope):
    losses, boxes, classes = data
    args = (
        torch.tensor(losses, dtype=torch.float32),
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(classes, dtype=torch.int64),
    )
    on_cpu = select_hard_examples(*args, 20, nms_scope=scope)
    on_gpu = select_hard_examples(*(a.cuda() for a in args), 20, nms_scope=scope)
    assert on_gpu.tolist() == on_cpu.tolist()


@pytest.mark.parametrize("scope", ["class", "agnostic"])
def test_group_by_group_is_all_at_once(scope, monkeypatch):
    """On a CPU each group has an NMS of its own, elsewhere all have one: the same survivors."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(600, 2, generator=generator) * 60
    boxes = torch.cat([corners, corners + 5 + 30 * torch.rand(600, 2, generator=generator)], dim=1)
    losses = torch.rand(600, generator=generator)
    losses[::50] = float("nan")
    boxes[7] = float("inf")
    classes, images = torch.arange(600) % 4, torch.arange(600) // 200
    args = losses, boxes, classes, images, 0.5, scope
    apart = selection.nms_by_loss(*args)
    monkeypatch.setattr(selection, "GROUP_BY_GROUP", ())
    assert torch.equal(apart, selection.nms_by_loss(*args))
    assert len(apart) < 550


def test_a_misspelt_scope_is_refused():
    with pytest.raises(ValueError, match="nms_scope = 'klass'"):
        select_hard_examples(torch.ones(1), torch.ones(1, 4), torch.zeros(1), 1, nms_scope="klass")
