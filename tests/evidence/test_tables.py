"""Tables and a plot of records whose figures are known by hand."""

import cv2
import numpy as np
import pytest
from scipy import stats

from projects.evidence import tables


def records(variant, values):
    return {seed: {"variant": variant, "AP": value} for seed, value in enumerate(values)}


def test_a_table_of_runs_that_lack_a_figure():
    whole = {"variant": "one", "AP": 30.0, "AP50": 50.0, "AP75": 20.0, "false_alarms": 1.5}
    lacking = {k: v for k, v in whole.items() if k != "false_alarms"} | {"variant": "other"}
    header, _, one, other = tables.table_of([{1: whole, 2: whole}, {1: lacking}, {}])
    assert header.startswith("| variant | seeds | AP | AP50 | AP75 | false alarms |")
    assert one == "| one | 2 | 30.00 ± 0.00 | 50.00 ± 0.00 | 20.00 ± 0.00 | 1.50 ± 0.00 |  |"
    assert other == "| other | 1 | 30.00 | 50.00 | 20.00 |  |  |"


def test_paired_difference():
    gains = [2.0, 3.0, 5.0, 4.5]
    baseline = records("random", [30.0 + 7 * seed for seed in range(5)])
    ours = records("OHEM", [30.0 + 7 * seed + gain for seed, gain in enumerate(gains)])
    half = stats.t.ppf(0.975, 3) * np.std(gains, ddof=1) / 2
    mean = np.mean(gains)
    assert tables.interval(ours, baseline) == pytest.approx((mean, mean - half, mean + half))
    expected = f"{mean:+.2f} ({mean - half:+.2f} to {mean + half:+.2f})"
    assert tables.difference(ours, baseline) == expected
    assert tables.difference(baseline, baseline) == ""
    assert tables.difference({0: ours[0]}, baseline) == ""


@pytest.fixture
def by_data():
    """On one data set a gain, on another a loss, on a third only the tested variant was run."""
    return {
        "boards": [records("random", [30.0, 32.0]), records("OHEM", [33.0, 35.4])],
        "plates": [records("random", [40.0, 41.0]), records("OHEM", [39.0, 38.0])],
        "trees": [{}, records("OHEM", [12.0])],
    }


def test_overview(by_data):
    header, _, random, ohem, beyond = tables.overview(by_data, "OHEM")
    assert header == "| AP | boards, 2 seeds | plates, 2 seeds | trees, 0 seeds |"
    assert random == "| random | 31.0 ± 1.4 | 40.5 ± 0.7 |  |"
    assert ohem == "| **OHEM** | 34.2 ± 1.7 | 38.5 ± 0.7 | 12.0 |"
    assert beyond.startswith("| OHEM beyond random, 95 % | +3.2 (+0.7 to +5.7) | -2.0 (")


def test_plot(by_data, tmp_path):
    """The point of a variant is on its side of zero."""
    tables.plot(by_data, tmp_path / "plot.png")
    picture = cv2.imread(str(tmp_path / "plot.png"))[:, :, ::-1].astype(int)
    picture = picture[:, : int(picture.shape[1] * 0.8)]  # without the legend
    blue = np.all(np.abs(picture - (31, 119, 180)) < 8, axis=2)
    zero = np.all(np.abs(picture - 128) < 8, axis=2).sum(axis=0).argmax()
    third = len(blue) // 3
    upper, middle, lower = (blue[i * third : (i + 1) * third] for i in range(3))
    assert upper[:, zero:].any() and not upper[:, :zero].any()
    assert middle[:, zero:].any() and middle[:, :zero].sum() > middle[:, zero:].sum()
    assert not lower.any()
