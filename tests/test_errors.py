"""What is told in a line, and what keeps its traceback."""

import difflib
import functools
import json

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import get_norm
from detectron2.modeling import BACKBONE_REGISTRY, build_backbone
from torch.multiprocessing.spawn import ProcessRaisedException

from ohem_d2 import OHEMSettings, per_roi_losses
from ohem_d2.mining.losses import CannotMine
from ohem_d2.tools.errors import (
    InputError,
    UntrustedFile,
    errors_in_one_line,
    in_words,
    input_errors,
)


def test_one_line_without_what_moves_the_cursor():
    error = InputError(" a file\n   called \x1b[2J\t, été\r ")
    assert str(error) == r"a file called \x1b[2J\t, été"


class Torn(torch.utils.data.Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise InputError("b.jpg: truncated:\n  two lines")


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
    with pytest.raises(SystemExit) as end, errors_in_one_line("train"):
        start(fail, ("input",))
    assert end.value.code == "train: SEED = x"
    with (
        pytest.raises(SystemExit, match="^train: x.pkl holds os.system; if you"),
        errors_in_one_line("train"),
    ):
        start(fail, ("untrusted",))
    with pytest.raises(ProcessRaisedException, match="of a model"), errors_in_one_line("train"):
        start(fail, ("bug",))


@BACKBONE_REGISTRY.register()
def backbone_with_a_bug(cfg, input_shape):
    raise ValueError("a bug of mine")


@BACKBONE_REGISTRY.register()
def backbone_with_a_wrong_norm(cfg, input_shape):
    return get_norm("No", 8)


def config_with(backbone):
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = backbone
    return cfg


@pytest.mark.parametrize(
    "function, argument, said",
    [
        (get_norm, "No", "key 'No' is missing"),
        (build_backbone, config_with("No"), "No object named 'No' found in 'BACKBONE' registry!"),
        (torch.device, "abacus", "RuntimeError: .*abacus"),
        (OHEMSettings.from_dict, {"NMS_THRESH": 2.0}, "MODEL.ROI_HEADS.OHEM.NMS_THRESH = 2.0"),
        (OHEMSettings.from_dict, {"NMS_TRESH": 1}, ".*did you mean NMS_THRESH"),
    ],
)
def test_what_detectron2_and_our_checks_say_is_due_to_the_input(function, argument, said):
    arguments = (argument, 8) if function is get_norm else (argument,)
    with pytest.raises(InputError, match=f"^It: {said}") as error, input_errors("It"):
        function(*arguments)
    assert error.value.__cause__ is not None


def mine_for(layer):
    per_roi_losses(layer, None, [])


def test_what_our_checks_say_in_somebodys_heads_is_due_to_the_input():
    with pytest.raises(InputError, match="^It: OHEM does not know") as error, input_errors("It"):
        mine_for(torch.nn.Linear(1, 1))
    assert isinstance(error.value.__cause__, CannotMine)


@pytest.mark.parametrize("name", ["backbone_with_a_bug", "backbone_with_a_wrong_norm"])
def test_bugs_in_somebodys_code_are_left_alone(name):
    with pytest.raises((ValueError, KeyError)) as error, input_errors("It"):
        build_backbone(config_with(name))
    assert not isinstance(error.value, InputError)
    assert name in [entry.name for entry in error.traceback]


def test_bugs_in_ours_are_left_alone(monkeypatch):
    monkeypatch.setattr(difflib, "get_close_matches", None)
    with pytest.raises(TypeError), input_errors("It"):
        OHEMSettings.from_dict({"NMS_TRESH": 1})


def test_what_names_its_place_already_is_left_as_it_is():
    with pytest.raises(InputError, match="^x.json: y$"), input_errors("It"):
        raise InputError("x.json: y")


def test_nested_too_deeply():
    with pytest.raises(RecursionError) as error:
        json.loads("[" * 100_000)
    assert in_words(error.value) == "it is nested too deeply, or includes itself"
