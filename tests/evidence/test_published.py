"""What pages publish of comparisons is what docs/evidence.json has."""

import json
import re

import cv2
import numpy as np
import pytest
from models import ROOT

from docs import published

RECORDS = json.loads(published.RECORDS.read_text())
PAGES = published.pages()
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
INTERVAL = r"[+-]\d+\.\d+ \([+-]\d+\.\d+ to [+-]\d+\.\d+"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_tables_are_those_of_the_records(page):
    """Numbers of seeds, means, deviations and intervals, to the last digit."""
    assert published.fill(page.read_text(), RECORDS) == page.read_text()


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_no_comparison_is_published_by_hand(page):
    """Neither a table of paired differences nor, in running text, an interval."""
    by_hand = published.MARKED.sub("", page.read_text())
    assert not re.search(r"^\| (sampler|variant|AP)\b.*95 %", by_hand, re.MULTILINE)
    assert not re.search(INTERVAL, by_hand)


def test_the_pages_have_tables():
    tables = [m for page in PAGES for m in published.MARKED.finditer(page.read_text())]
    assert len(tables) > 8
    # no misspelt variant: each row that is asked for is there, but for data not measured yet
    for table in tables:
        data, *_, rows = (part.strip() for part in table[3].split(";"))
        if table[2] == "evidence" and any(r["data"] == data for r in RECORDS):
            for variant in map(str.strip, rows.split("|")):
                assert f"\n| {variant} | " in table[0], (data, variant)


def test_a_table_has_what_its_comment_asks_for():
    """Two seeds of two samplers, by hand: 3 and 5 ahead, so 4 ± 12.7 (t of one degree: 12.706)."""
    run = {"data": "moon", "iterations": 800, "missing": 0.2, "AP50": 1.0, "AP75": 2.0}
    records = [
        {**run, "variant": variant, "seed": seed, "AP": ap}
        for variant, aps in (("random 128", (30.0, 32.0)), ("OHEM 128", (33.0, 37.0)))
        for seed, ap in enumerate(aps)
    ]
    others = [{**r, "iterations": 400} for r in records] + [{**r, "missing": None} for r in records]
    spec = "evidence: moon; 800 iterations; missing 0.2; random 128 | OHEM 128 | quota 128"
    page = f"Before.\n\n<!-- {spec} -->\nold\n<!-- end -->\nAfter 1.\n"
    filled = published.fill(page, others + records)
    assert "| random 128 | 2 | 31.0 ± 1.4 |" in filled and "quota 128 |" not in filled
    assert "| OHEM 128 | 2 | 35.0 ± 2.8 | 1.0 ± 0.0 |" in filled
    assert "+4.0 (-8.7 to +16.7)" in filled and "old" not in filled
    assert filled.startswith("Before.") and filled.endswith("<!-- end -->\nAfter 1.\n")
    assert published.fill(filled, others + records) == filled
    assert published.fill(page, []).count("|") == page.count("|")


# ---- the overview and the picture, of records whose figures are known by hand -------------------


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
    header, _, random, ohem, ap, ap75 = published.overview(by_data, "OHEM")
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
    published.plot(by_data, tmp_path / "plot.png")
    picture = cv2.imread(str(tmp_path / "plot.png"))[:, :, ::-1].astype(int)
    picture = picture[:, : int(picture.shape[1] * 0.8)]  # without the legend
    blue = np.all(np.abs(picture - (31, 119, 180)) < 8, axis=2)
    zero = np.all(np.abs(picture - 128) < 8, axis=2).sum(axis=0).argmax()
    third = len(blue) // 3
    upper, middle, lower = (blue[i * third : (i + 1) * third] for i in range(3))
    assert upper[:, zero:].any() and not upper[:, :zero].any()
    assert middle[:, zero:].any() and middle[:, :zero].sum() > middle[:, zero:].sum()
    assert not lower.any()
