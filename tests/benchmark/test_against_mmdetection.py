"""
mmdetection's own sampler beside ours, where it is installed: see the head of
projects/benchmark/against_mmdetection.py.
"""

import pytest

pytest.importorskip("mmdet", reason="pip install --no-deps -r .../requirements-mmdetection.txt")


def test_the_same_rois_but_where_it_says_so(capsys):
    import against_mmdetection

    small = ["--budgets", "32", "64", "--images", "2", "--rois", "300"]
    found = against_mmdetection.main(small)
    rows = {}
    for what, budget, share in found:
        rows.setdefault(what, {})[budget] = share
    same = {what for what, shares in rows.items() if shares == {32: 1.0, 64: 1.0}}
    assert same == {"the same setting", "neither adds the objects to the proposals"}
    assert len(rows) == 8
    assert "| the same setting | 100.0% | 100.0% |" in capsys.readouterr().out
