"""What paired runs tell: intervals and numbers of seeds against SciPy and against simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from ohem_d2.tools.comparison.paired import (
    DIFFERENCE,
    head_start,
    paired,
    reached,
    seeds_needed,
    verdict,
)


def by_seed(values):
    return dict(enumerate(values, start=1))


@pytest.mark.parametrize("num", [2, 3, 5, 12])
def test_the_interval_is_scipys(num):
    one, other = np.random.default_rng(num).normal(30, 3, (2, num))
    found = paired(by_seed(one), by_seed(other))
    expected = stats.ttest_rel(one, other).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx(tuple(expected))
    assert found.mean == pytest.approx((one - other).mean()) and found.n == num


def test_only_seeds_that_both_have_are_compared():
    found = paired({1: 31.0, 2: 35.0, 7: 99.0}, {2: 32.0, 1: 30.0, 8: -99.0})
    assert (found.mean, found.n) == (2.0, 2)
    assert paired({1: 31.0}, {2: 30.0}) is None and paired({}, {}) is None
    alone = paired({1: 31.0}, {1: 30.0})
    assert (alone.mean, alone.low, alone.high, alone.n) == (1.0, -math.inf, math.inf, 1)


@pytest.mark.parametrize("num", [3, 5])
def test_the_interval_covers_as_often_as_it_says(num):
    """
    10,000 simulated comparisons: what seeds have in common spreads far more than the differences,
    whose true mean is known.
    """
    random, true = np.random.default_rng(0), 1.3
    shared = random.normal(30, 4, (10_000, num))
    ours = shared + random.normal(true, 0.8, shared.shape)
    pairs = (paired(by_seed(a), by_seed(b)) for a, b in zip(ours.tolist(), shared.tolist()))
    covered = np.mean([found.low <= true <= found.high for found in pairs])
    assert 0.94 <= covered <= 0.96


@pytest.mark.parametrize("spread", [0.3, 0.7, 1.5, 3.0])
def test_so_many_seeds_tell_a_difference_in_four_of_five_comparisons(spread):
    """Student's test as SciPy has it on 20,000 simulated comparisons; one seed less is too few."""
    random, num = np.random.default_rng(1), seeds_needed(spread)

    def power(n):
        runs = random.normal(DIFFERENCE, spread, (20_000, n))
        return np.mean(stats.ttest_1samp(runs, 0.0, axis=1).pvalue < 0.05)

    assert power(num) > 0.79
    if num > 2:
        assert power(num - 1) < 0.81


def test_more_spread_takes_more_seeds_up_to_a_limit():
    found = [seeds_needed(spread) for spread in (0.0, 0.1, 0.5, 1.0, 2.0, 4.0, 1e9)]
    assert found == sorted(found) and found[0] == 2 and found[-1] == 1000
    # (1.96 + 0.84)^2 spread^2, the rule of thumb for many seeds
    assert seeds_needed(4.0) == pytest.approx(2.8**2 * 16, rel=0.03)
    assert seeds_needed(2.0, difference=2.0) == seeds_needed(1.0)


RANDOM = [30.0, 32.0, 34.0]


@pytest.mark.parametrize(
    ("gains", "sentence"),
    [
        ([3.0, 3.2, 2.8], "OHEM is ahead of random by 3.0 AP (+2.5 to +3.5, 3 seeds)."),
        ([-3.0, -3.2, -2.8], "OHEM is behind random by 3.0 AP (-3.5 to -2.5, 3 seeds)."),
        ([0.1, -0.1, 0.0], "No difference beyond 0.2 AP between OHEM and random can be told."),
        (
            [2.0, -1.0, 0.5],
            "Too few seeds: {more} more would tell a difference of 1 AP between OHEM and random at "
            "this spread; so far +0.5 (-3.2 to +4.2).",
        ),
    ],
)
def test_one_sentence_of_four(gains, sentence):
    ours = by_seed(np.array(RANDOM) + gains)
    more = seeds_needed(np.std(gains, ddof=1)) - 3
    assert verdict("OHEM", "random", ours, by_seed(RANDOM)) == sentence.format(more=more)


def test_with_one_seed_or_none_nothing_is_claimed():
    assert verdict("a", "b", {1: 40.0}, {1: 30.0}).startswith("Too few seeds: one tells nothing")
    assert verdict("a", "b", {1: 40.0}, {2: 30.0}) == "a and b have no seed in common yet."


def test_runs_without_spread():
    same = verdict("a", "b", by_seed(RANDOM), by_seed(RANDOM))
    assert same == "No difference beyond 0.0 AP between a and b can be told."
    # as where no run finds anything
    assert verdict("a", "b", by_seed([0.0] * 3), by_seed([0.0] * 3)) == same
    ahead = verdict("a", "b", by_seed(np.add(RANDOM, 1.5)), by_seed(RANDOM))
    assert ahead == "a is ahead of b by 1.5 AP (+1.5 to +1.5, 3 seeds)."


def test_a_run_that_finds_nothing_counts_as_zero():
    """Beside others that find something: it is a pair like any other."""
    found = paired(by_seed([30.0, 0.0]), by_seed([28.0, 29.0]))
    assert found.n == 2 and found.mean == pytest.approx((2 - 29) / 2)


@pytest.mark.parametrize(
    ("target", "share"), [(10.0, 0.25), (15.0, 0.375), (35.0, 0.9), (0.0, 0.0), (41.0, math.nan)]
)
def test_where_a_curve_first_has_an_ap(target, share):
    """A straight line up to 20, a plateau, a dip, and a rise at the end."""
    curve = [(50, 20.0), (60, 20.0), (80, 10.0), (90, 35.0), (100, 40.0)]
    assert reached(curve, target) == pytest.approx(share, nan_ok=True)


def test_the_head_start():
    ours = {1: [(50, 30.0), (100, 33.0)], 2: [(50, 20.0), (100, 40.0)], 3: [(50, 5.0), (100, 9.0)]}
    random = {1: [(50, 5.0), (100, 30.0)], 2: [(100, 30.0)], 3: [(100, 10.0)]}
    what = "a reaches the final AP of b"
    assert head_start("a", "b", ours, random) == (
        f"{what} after 62 ± 18 % of the iterations (in 2 of 3 seeds)."
    )
    late = {2: ours[2]}, {2: random[2]}
    assert head_start("a", "b", *late) == f"{what} after 75 % of the iterations."
    assert head_start("a", "b", {3: ours[3]}, random) == f"{what} in 0 of 1 seeds only."
    assert head_start("a", "b", {}, random) == ""


def test_a_run_without_evaluations_along_the_way_has_no_head_start():
    """Its curve is one point: nothing is known of when it got there."""
    last, curve = [(400, 40.0)], [(200, 20.0), (400, 40.0)]
    assert head_start("a", "b", {1: last}, {1: [(400, 30.0)]}) == ""
    found = head_start("a", "b", {1: last, 2: curve}, {1: last, 2: [(400, 30.0)]})
    assert found == "a reaches the final AP of b after 75 % of the iterations."
