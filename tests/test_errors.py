"""What is told in a line, and what keeps its traceback."""

import functools
import json

import pytest
import torch
from torch.multiprocessing.spawn import ProcessRaisedException

from ohem_d2.tools.input_errors import InputError, message, naming
from ohem_d2.tools.errors import told
from ohem_d2.tools.trust import UntrustedFile


def test_one_line_without_what_moves_the_cursor():
    error = InputError(" a file\n   called \x1b[2J\t, été\r ")
    assert str(error) == r"a file called \x1b[2J\t, été"


class Torn(torch.utils.data.Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        with naming("b.jpg"):
            raise OSError("truncated:\n  two lines")


def test_what_a_worker_of_a_data_loader_says():
    """PyTorch sends its traceback as the text of the error."""
    with pytest.raises(InputError) as error:
        list(torch.utils.data.DataLoader(Torn(), num_workers=1))
    assert str(error.value) == "b.jpg: truncated: two lines"


def fail(rank, kind):
    raise {
        "input": InputError("SEED = x"),
        "untrusted": UntrustedFile("x.pkl", "holds os.system"),
        "bug": KeyError("of a model"),
    }[kind]


def test_what_one_of_several_processes_says():
    start = functools.partial(torch.multiprocessing.start_processes, start_method="fork")
    with pytest.raises(SystemExit) as end, told("train"):
        start(fail, ("input",))
    assert end.value.code == "train: SEED = x"
    with pytest.raises(SystemExit, match="^train: x.pkl holds os.system; if you"), told("train"):
        start(fail, ("untrusted",))
    with pytest.raises(ProcessRaisedException, match="of a model"), told("train"):
        start(fail, ("bug",))


def test_bugs_are_left_alone():
    for error, only_data, told_in_a_line in (
        (AttributeError("x"), False, False),
        (AttributeError("x"), True, True),
        (TypeError("x"), False, True),
    ):
        with (
            pytest.raises(InputError if told_in_a_line else AttributeError),
            naming("it", (), only_data),
        ):
            raise error
    with pytest.raises(TypeError, match="^x$"), naming("it", (TypeError,)):
        raise TypeError("x")


def test_nested_too_deeply():
    with pytest.raises(RecursionError) as error:
        json.loads("[" * 100_000)
    assert message(error.value) == "it is nested too deeply, or includes itself"
