import pytest
import torch
from detectron2.utils.events import EventStorage


@pytest.fixture(autouse=True)
def seeded():
    """Every test starts from the same random state, on as many threads."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def storage():
    with EventStorage() as storage:
        yield storage
