"""What is wrong with the input ends a command in one line that names it; real commands are run."""

import re

import forked
import inputs
import pytest
from cases import TABLE, TRAIN


@pytest.mark.parametrize("case", TABLE, ids=lambda case: case.name)
def test_one_line(case, tmp_path):
    folder = tmp_path / "run"
    inputs.make(folder)
    case.spoil(folder)
    found = forked.run(case.words, folder, PYTHONPATH=str(folder))
    assert found.status == case.status, found.stderr[-2000:] + found.stdout[-500:]
    assert "Traceback" not in found.stdout + found.stderr
    if case.listed:
        assert re.search(case.said, found.stdout + found.stderr), found.stdout[-2000:]
    if case.status:
        *before, last = found.stderr.splitlines()
        assert case.listed or re.search(case.said, last), last
        assert len(before) < 9 and len(last) < 800


BUGS = """
from detectron2.modeling import BACKBONE_REGISTRY, ROI_HEADS_REGISTRY, StandardROIHeads

@ROI_HEADS_REGISTRY.register()
class Forward(StandardROIHeads):
    def forward(self, *args):
        raise ValueError("a bug of mine")

@ROI_HEADS_REGISTRY.register()
class Constructor(StandardROIHeads):
    def __init__(self, cfg, shape):
        raise TypeError("a bug of mine")

@BACKBONE_REGISTRY.register()
def Backbone(cfg, shape):
    raise ValueError("a bug of mine")
"""


@pytest.mark.parametrize(
    "part, place, flags",
    [
        ("ROI_HEADS.NAME Forward", "forward", ()),
        ("ROI_HEADS.NAME Constructor", "__init__", ()),
        ("ROI_HEADS.NAME Constructor", "__init__", ("--check",)),
        ("BACKBONE.NAME Backbone", "Backbone", ()),
        ("BACKBONE.NAME Backbone", "Backbone", ("--check",)),
        ("BACKBONE.NAME Backbone", "Backbone", ("--eval-only",)),
    ],
)
def test_a_bug_keeps_its_traceback(part, place, flags, tmp_path):
    folder = tmp_path / "run"
    inputs.make(folder)
    (folder / "my_heads.py").write_text(BUGS)
    words = (*flags, "--import", "my_heads", *f"MODEL.{part}".split())
    found = forked.run((*TRAIN, *words), folder, PYTHONPATH=str(folder))
    assert found.status == 1 and found.stderr.strip().endswith("Error: a bug of mine")
    assert "Traceback" in found.stderr and f"in {place}\n" in found.stderr


def test_a_check_leaves_nothing(tmp_path):
    folder = tmp_path / "run"
    inputs.make(folder)
    before = sorted(folder.rglob("*"))
    found = forked.run((*TRAIN, "--check", "OUTPUT_DIR", "some/where"), folder)
    assert found.status == 0 and "found nothing" in found.stdout
    assert sorted(folder.rglob("*")) == before


def test_there_are_as_many_cases_as_are_claimed():
    names = [case.name for case in TABLE]
    assert len(names) == len(set(names)) >= 150
