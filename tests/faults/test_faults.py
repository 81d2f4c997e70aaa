"""What is wrong with the input ends a command in one line that names it; real commands are run."""

import re
from concurrent.futures import ThreadPoolExecutor

import inputs
import pytest
from cases import TABLE, TRAIN
from forked import ForkServer


def run(case, number, folder, server):
    folder = folder / str(number)
    inputs.make(folder)
    case.spoil(folder)
    return server.run(case.words, folder)


@pytest.fixture(scope="session")
def outcomes(request, tmp_path_factory):
    """By case, futures: two are run at a time, while the tests look at those that have ended."""
    wanted = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    wanted = [params["case"] for params in wanted if "case" in params]
    folder, server = tmp_path_factory.mktemp("faults"), ForkServer()
    with ThreadPoolExecutor(2) as pool:
        yield {c: pool.submit(run, c, i, folder, server) for i, c in enumerate(wanted)}


@pytest.mark.parametrize("case", TABLE, ids=lambda case: case.name)
def test_one_line(case, outcomes):
    found = outcomes[case].result()
    assert found.status == case.status, found.stderr[-2000:] + found.stdout[-500:]
    assert "Traceback" not in found.stdout + found.stderr
    if case.listed:
        assert re.search(case.said, found.stdout + found.stderr), found.stdout[-2000:]
    if case.status:
        *before, last = found.stderr.splitlines()
        assert case.listed or re.search(case.said, last), last
        assert len(before) < 9 and len(last) < 800


BUGS = """
from detectron2.modeling import ROI_HEADS_REGISTRY, StandardROIHeads

@ROI_HEADS_REGISTRY.register()
class Forward(StandardROIHeads):
    def forward(self, *args):
        raise ValueError("a bug of mine")

@ROI_HEADS_REGISTRY.register()
class Constructor(StandardROIHeads):
    def __init__(self, cfg, shape):
        raise TypeError("a bug of mine")
"""


@pytest.mark.parametrize("heads", ["Forward", "Constructor"])
def test_a_bug_keeps_its_traceback(heads, tmp_path):
    folder = tmp_path / "run"
    inputs.make(folder)
    (folder / "my_heads.py").write_text(BUGS)
    words = ("--import", "my_heads", "MODEL.ROI_HEADS.NAME", heads)
    found = ForkServer().run((*TRAIN, *words), folder)
    assert found.status == 1 and found.stderr.strip().endswith("Error: a bug of mine")
    assert "Traceback" in found.stderr and f"in {heads.lower()[:7]}" in found.stderr.replace(
        "__init__", "constru"
    )


def test_there_are_as_many_cases_as_are_claimed():
    names = [case.name for case in TABLE]
    assert len(names) == len(set(names)) >= 150
