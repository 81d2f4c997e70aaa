"""Iterative box regression and box voting against plain loops in NumPy."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from reference import iou

from projects.paper.ohem_paper.inference import voting
from projects.paper.ohem_paper.inference.voting import Candidates


def reference_nms(boxes, scores, classes, thresh):
    kept = []
    for i in sorted(range(len(scores)), key=lambda i: -scores[i]):
        if all(classes[i] != classes[j] or iou(boxes[i], boxes[j]) <= thresh for j in kept):
            kept.append(i)
    return kept


def reference_vote(boxes, scores, classes, kept, thresh):
    voted = []
    for i in kept:
        voters = [
            j
            for j in range(len(scores))
            if classes[j] == classes[i] and (j == i or iou(boxes[i], boxes[j]) >= thresh)
        ]
        weights = np.array([scores[j] for j in voters])
        places = np.array([boxes[j] for j in voters])
        voted.append((weights[:, None] * places).sum(axis=0) / weights.sum())
    return np.array(voted).reshape(-1, 4)


def candidates(num=80, num_classes=3, seed=0):
    """Crowded, so that boxes have voters; no two scores are equal."""
    random = np.random.default_rng(seed)
    centers = random.uniform(10, 40, (max(num // 10, 1), 2))[
        random.integers(0, max(num // 10, 1), num)
    ]
    sides = random.uniform(8, 16, (num, 2))
    boxes = np.concatenate([centers - sides, centers + sides], axis=1)
    boxes += random.normal(0, 2, boxes.shape)
    scores = (random.permutation(num) + 1) / (num + 1)
    return Candidates(
        torch.tensor(boxes, dtype=torch.float32),
        torch.tensor(scores, dtype=torch.float32),
        torch.tensor(random.integers(0, num_classes, num)),
    )


@st.composite
def some_candidates(draw):
    num, classes = draw(st.integers(1, 40)), draw(st.integers(1, 4))
    return candidates(num, classes, seed=draw(st.integers(0, 2**32 - 1)))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("nms_thresh", "vote_thresh"), [(0.3, 0.5), (0.7, 0.3), (0.0, 1.0)])
def test_nms_and_vote(seed, nms_thresh, vote_thresh):
    found = candidates(seed=seed)
    kept = voting.nms(found, nms_thresh)
    columns = [column.numpy().astype(float) for column in found]
    assert kept.tolist() == reference_nms(*columns, nms_thresh)
    voted = voting.vote(found, kept, vote_thresh)
    expected = reference_vote(*columns, kept.tolist(), vote_thresh)
    np.testing.assert_allclose(voted.numpy(), expected, rtol=1e-5, atol=1e-4)
    moved = (voted != found.boxes[kept]).any(dim=1)
    assert bool(moved.any()) == (vote_thresh < 1)


def test_topk_are_the_highest_scores():
    found = candidates()
    every = voting.nms(found, 0.5)
    assert torch.equal(voting.nms(found, 0.5, topk=3), every[:3])
    assert len(voting.nms(found, 0.5, topk=0)) == 0
    assert (found.scores[every].diff() < 0).all()


@settings(deadline=None, max_examples=60)
@given(some_candidates(), st.floats(0, 1), st.floats(0, 1))
def test_votes_lie_within_the_hull_of_their_voters(found, nms_thresh, vote_thresh):
    kept = voting.nms(found, nms_thresh)
    voted = voting.vote(found, kept, vote_thresh)
    for i, box in zip(kept.tolist(), voted):
        overlap = [iou(found.boxes[i].tolist(), b.tolist()) for b in found.boxes]
        # A little more than the voters: IoUs next to the threshold may fall on either side.
        near = (torch.tensor(overlap) >= vote_thresh - 1e-5) & (found.classes == found.classes[i])
        voters = found.boxes[near]
        assert (box >= voters.amin(dim=0) - 1e-4).all()
        assert (box <= voters.amax(dim=0) + 1e-4).all()


@settings(deadline=None, max_examples=60)
@given(some_candidates(), st.randoms(use_true_random=False))
def test_the_order_of_the_candidates_does_not_matter(found, random):
    order = list(range(len(found.scores)))
    random.shuffle(order)
    shuffled = Candidates(*(column[order] for column in found))
    kept, again = voting.nms(found, 0.3), voting.nms(shuffled, 0.3)
    assert torch.equal(kept, torch.tensor(order)[again])
    torch.testing.assert_close(voting.vote(found, kept, 0.5), voting.vote(shuffled, again, 0.5))


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.floats(0, 1000, width=32), min_size=4, max_size=4),
    st.floats(0, 1, width=32),
)
def test_a_box_without_others_stays_bit_for_bit(box, score):
    """Also one without area, and one whose score is 0."""
    found = Candidates(torch.tensor([box]), torch.tensor([score]), torch.tensor([2]))
    kept = voting.nms(found, 0.3)
    assert torch.equal(voting.vote(found, kept, 0.5), found.boxes)


def test_other_classes_and_far_boxes_have_no_vote():
    found = Candidates(
        torch.tensor([[0.0, 0, 10, 10], [2, 0, 12, 10], [0, 0, 10, 11], [50, 50, 60, 60]]),
        torch.tensor([0.9, 0.3, 0.8, 0.7]),
        torch.tensor([0, 0, 1, 0]),
    )
    kept = voting.nms(found, 0.3)
    assert kept.tolist() == [0, 2, 3]
    voted = voting.vote(found, kept, 0.5)
    torch.testing.assert_close(voted[0], torch.tensor([0.5, 0, 10.5, 10]))
    assert torch.equal(voted[1:], found.boxes[[2, 3]])
    # The IoU of the first two is 2/3: a vote at a threshold of just that.
    assert torch.equal(voting.vote(found, kept, 0.67), found.boxes[kept])


def test_votes_are_exact_under_autocast():
    found = candidates()
    kept = voting.nms(found, 0.3)
    expected = voting.vote(found, kept, 0.5)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(voting.vote(found, kept, 0.5), expected)


def test_nothing_in_nothing_out():
    empty = Candidates(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))

    def never(boxes):
        raise AssertionError("there is nothing to predict for")

    assert all(len(column) == 0 for column in voting.iterate(empty, never, 3, 0.1))
    kept = voting.nms(empty, 0.3)
    assert kept.shape == (0,) and voting.vote(empty, kept, 0.5).shape == (0, 4)
    scores = torch.full((5, 3), 0.1)
    assert voting.above_threshold(scores, torch.rand(5, 3, 4), 0.1).boxes.shape == (0, 4)
    nan = torch.full((5, 3), float("nan"))
    assert voting.above_threshold(nan, torch.rand(5, 1, 4), 0.0).boxes.shape == (0, 4)


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("iterations", [1, 2, 4])
def test_iterate(agnostic, iterations):
    num_classes, thresh = 3, 0.4
    seen = []

    def predict_one(box):
        """Any deterministic network: scores by class, and a box for each or one for all."""
        scores = [0.5 + 0.5 * np.sin(box.sum() * (c + 1)) for c in range(num_classes)]
        shifts = [1.0] if agnostic else [1.0, 2.0, 3.0]
        return scores, [box + shift for shift in shifts]

    def predict(boxes):
        seen.append(len(boxes))
        rows = [predict_one(box) for box in boxes.numpy().astype(np.float64)]
        scores, boxes = (np.array(column) for column in zip(*rows))
        return torch.tensor(scores), torch.tensor(boxes)

    proposals = torch.arange(80.0).reshape(20, 4)
    found = voting.iterate(
        voting.above_threshold(*predict(proposals), thresh), predict, iterations, thresh
    )

    expected, current = [], []
    for box in proposals.numpy().astype(np.float64):
        scores, boxes = predict_one(box)
        for c in range(num_classes):
            if scores[c] > thresh:
                current.append((boxes[0 if agnostic else c], scores[c], c))
    num_first = len(current)
    expected += current
    for _ in range(iterations - 1):
        following = []
        for box, _, c in current:
            scores, boxes = predict_one(box)
            if scores[c] > thresh:
                following.append((boxes[0 if agnostic else c], scores[c], c))
        current = following
        expected += current
    for column, rows in zip(found, zip(*expected)):
        np.testing.assert_allclose(column.numpy(), np.array(rows))
    # Equal boxes of several classes are one RoI to the network.
    if agnostic and iterations > 1:
        assert seen[1] <= len(proposals) < num_first
