"""Statistics of paired runs: differences over the seeds that two samplers share."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

LEVEL = 0.95  # confidence of intervals
POWER = 0.8  # statistical power with "n more seeds"
DIFFERENCE = 1.0  # in AP, to be detected with that power

# pairs of iteration and AP
Curve = Sequence[tuple[int, float]]


@dataclasses.dataclass(frozen=True)
class Difference:
    """The difference of two samplers: the mean over n seeds, and its interval."""

    mean: float
    low: float
    high: float
    n: int


@functools.cache
def critical(n: int) -> float:
    """The critical value of Student's t for n paired values."""
    return stats.t.ppf((1 + LEVEL) / 2, n - 1)


def paired(one: Mapping[int, float], other: Mapping[int, float]) -> Difference | None:
    """Student's t interval over shared seeds. None without any, infinite with one."""
    values = np.array([one[seed] - other[seed] for seed in one if seed in other])
    if len(values) == 0:
        return None
    mean, num, half = values.mean(), len(values), math.inf
    if num > 1:
        half = critical(num) * values.std(ddof=1) / math.sqrt(num)
    return Difference(mean, mean - half, mean + half, num)


def seeds_needed(spread: float, difference: float = DIFFERENCE, most: int = 1000) -> int:
    """
    The number of seeds for which a paired t-test at 5 % has a power of 80 %, if the standard
    deviation of paired differences is ``spread``. Uses the noncentral t distribution, with the
    parameter difference / spread * sqrt(n) (Cohen, 1988, ch. 2).
    """
    for n in range(2, most):
        shift = difference / max(spread, 1e-9) * math.sqrt(n)
        # For large shifts the distribution cannot be computed, but the power is near 1.
        if shift > 2 * critical(n) + 30 or stats.nct.sf(critical(n), n - 1, shift) >= POWER:
            return n
    return most


def verdict(one: str, other: str, ones: Mapping[int, float], others: Mapping[int, float]) -> str:
    """A sentence about the AP of two samplers, given by seed."""
    found = paired(ones, others)
    if found is None:
        return f"{one} and {other} have no seed in common yet."
    beyond = f"by {abs(found.mean):.1f} AP ({found.low:+.1f} to {found.high:+.1f}, {found.n} seeds)"
    if found.low > 0:
        return f"{one} is ahead of {other} {beyond}."
    if found.high < 0:
        return f"{one} is behind {other} {beyond}."
    widest = max(abs(found.low), abs(found.high))
    if found.n < 2:
        return f"Too few seeds: one tells nothing of the spread between {one} and {other}."
    values = [ones[seed] - others[seed] for seed in ones if seed in others]
    more = seeds_needed(float(np.std(values, ddof=1))) - found.n
    if more <= 0 or widest <= DIFFERENCE:
        return f"No difference beyond {widest:.1f} AP between {one} and {other} can be told."
    return (
        f"Too few seeds: {more} more would tell a difference of {DIFFERENCE:.0f} AP between {one} "
        f"and {other} at this spread; so far {found.mean:+.1f} ({found.low:+.1f} to "
        f"{found.high:+.1f})."
    )


def reached(curve: Curve, target: float) -> float:
    """The share of iterations after which a curve first has this AP, interpolated, or NaN."""
    before = (0, 0.0)
    for point in curve:
        if point[1] >= target:
            (i0, ap0), (i1, ap1) = before, point
            part = (target - ap0) / (ap1 - ap0) if ap1 > ap0 else 1.0
            return (i0 + max(part, 0.0) * (i1 - i0)) / curve[-1][0]
        before = point
    return math.nan


def head_start(one: str, other: str, ones: Mapping[int, Curve], others: Mapping[int, Curve]) -> str:
    """Say after which share of the iterations a sampler has the other's final AP, or ""."""
    seeds = [s for s, curve in ones.items() if s in others and len(curve) > 1]
    shares = [100 * reached(ones[seed], others[seed][-1][1]) for seed in seeds]
    there = [share for share in shares if not math.isnan(share)]
    what, of_seeds = f"the final AP of {other}", f"in {len(there)} of {len(seeds)} seeds"
    if 2 * len(there) <= len(seeds):
        return f"{one} reaches {what} {of_seeds} only." if seeds else ""
    spread = f" ± {np.std(there, ddof=1):.0f}" if len(there) > 1 else ""
    end = f" ({of_seeds})" if len(there) < len(seeds) else ""
    return f"{one} reaches {what} after {np.mean(there):.0f}{spread} % of the iterations{end}."
