"""Tables and a plot of records whose figures are known by hand."""

import cv2
import numpy as np
import pytest

from projects.evidence import tables


def records(values):
    return {seed: {"AP": value, "AP75": value - 10} for seed, value in enumerate(values)}


@pytest.fixture
def by_data():
    """On one data set a gain, on another a loss, on a third only the tested variant was run."""
    return {
        "boards": {"random": records([30.0, 32.0]), "OHEM": records([33.0, 35.4])},
        "plates": {"random": records([40.0, 41.0]), "OHEM": records([39.0, 38.0])},
        "trees": {"random": {}, "OHEM": records([12.0])},
    }


def test_overview(by_data):
    header, _, random, ohem, ap, ap75 = tables.overview(by_data, "OHEM")
    assert header == "| AP / AP75 | boards, 2 seeds | plates, 2 seeds | trees, 0 seeds |"
    assert random == "| random | 31.0 ± 1.4 / 21.0 ± 1.4 | 40.5 ± 0.7 / 30.5 ± 0.7 |  |"
    assert ohem.startswith(
        "| OHEM | 34.2 ± 1.7 / 24.2 ± 1.7 | 38.5 ± 0.7 / 28.5 ± 0.7 | 12.0 / 2.0 |"
    )
    gains = "+3.2 (+0.7 to +5.7) | -2.0 (-14.7 to +10.7) |  |"
    assert ap == f"| AP difference (OHEM minus random), 95 % | {gains}"
    assert ap75 == f"| AP75 difference (OHEM minus random), 95 % | {gains}"


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
