import gc
import logging
import os

# ruff: noqa: E402
# Until all tests are imported, as nothing of them is garbage: importing takes half of the time.
gc.disable()

import pytest
import torch
from detectron2.utils.events import EventStorage

import ohem_d2


def pytest_configure():
    """The workers of pytest-xdist share the cores, and the processes they start share theirs."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    if workers > 1:
        threads = max((os.cpu_count() or 1) // workers, 1)
        os.environ["OMP_NUM_THREADS"] = str(threads)
        torch.set_num_threads(threads)


def pytest_collection_modifyitems(items):
    """In the order of their files, but the long ones first."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


def pytest_collection_finish():
    """What is imported stays until the end. Garbage collection need not go over it."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def seeded():
    """Every test starts from the same random state, on as many threads."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def heard():
    """
    Once Detectron2 has set up its logs, they do not come to the root logger. That they do has to be
    set before the test begins, or caplog, which listens to both then, would have records twice.
    """
    logging.getLogger("detectron2").propagate = True


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Images of tests would be one tile, in which scoring leaves RoIs in their order."""
    monkeypatch.setattr(ohem_d2.mining.scoring, "TILE", 16)


@pytest.fixture
def storage():
    with EventStorage() as storage:
        yield storage


@pytest.fixture(scope="session")
def tree_crowns():
    """Real photographs: those of the demo, fetched once from the package registry."""
    from projects.tree_crowns import prepare_data

    prepare_data.prepare(prepare_data.DATA)
    return prepare_data.DATA
