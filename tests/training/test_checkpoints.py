"""Checkpoints that are killed while they are written, that are torn, and disks that are full."""

import logging
import resource
import signal

import forked
import interrupted
import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from interrupted import ended, kill, start, wait_until
from torch import nn

from ohem_d2.tools.errors import InputError, errors_in_one_line
from ohem_d2.tools.training.checkpoints import Checkpointer, load_to_evaluate, load_torch


class Progress:
    """A part of the checkpoint, as the trainer is."""

    def __init__(self, iteration=-1):
        self.iteration = iteration

    def state_dict(self):
        return {"iteration": self.iteration}

    def load_state_dict(self, state):
        self.iteration = state["iteration"]


def checkpointer(folder, iteration=-1):
    return Checkpointer(nn.Linear(50, 50), str(folder), trainer=Progress(iteration))


def resumed(folder):
    """The iteration that a run goes on after."""
    found = checkpointer(folder)
    found.resume_or_load("", resume=True)
    return found.checkpointables["trainer"].iteration


@pytest.fixture
def folder(tmp_path):
    """Of a run of 30 iterations that was extended, and killed after 40."""
    for name, iteration in (("0000009", 9), ("0000019", 19), ("final", 29), ("0000039", 39)):
        checkpointer(tmp_path, iteration).save(f"model_{name}", iteration=iteration)
    torch.save(nn.Linear(50, 50).state_dict(), tmp_path / "weights.pth")  # of no training
    return tmp_path


def cut(file):
    file.write_bytes(file.read_bytes()[:4000])


def empty(file):
    file.write_bytes(b"")


def zeros(file):
    file.write_bytes(bytes(len(file.read_bytes())))


def change(file):
    content = bytearray(file.read_bytes())
    place = len(content) // 2
    content[place] ^= 1
    file.write_bytes(content)


def remove(file):
    file.unlink()


def test_the_last_is_resumed_from(folder, caplog):
    assert resumed(folder) == 39 and "lost" not in caplog.text
    assert not list(folder.glob("*.part"))


@pytest.mark.parametrize("harm", [cut, empty, zeros, change, remove])
def test_the_newest_that_can_be_read_takes_the_place(folder, harm, caplog):
    harm(folder / "model_0000039.pth")
    with caplog.at_level(logging.WARNING):
        assert resumed(folder) == 29
    (line,) = (record.getMessage() for record in caplog.records if "lost" in record.getMessage())
    assert f"{folder / 'last_checkpoint'} names 'model_0000039.pth', which cannot be read" in line
    assert "Going on from" in line and "model_final.pth: what was trained from iteration 30" in line
    harm(folder / "model_final.pth")
    assert resumed(folder) == 19


@pytest.mark.parametrize("content", [None, b"", b"model_00", b"\0" * 17, b"\xff\xfe", b"../x.pth"])
def test_a_torn_name_of_the_last(folder, content, caplog):
    if content is None:
        (folder / "last_checkpoint").unlink()
    else:
        (folder / "last_checkpoint").write_bytes(content)
    assert resumed(folder) == 39 and str(folder / "last_checkpoint") in caplog.text


def test_none_can_be_read(folder):
    for file in folder.glob("model_*.pth"):
        cut(file)
    with pytest.raises(InputError, match=f"{folder}.*'model_0000039.pth'.*Put one back, or begin"):
        resumed(folder)


def test_nothing_is_there_to_resume_from(tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"")  # of somebody else's
    assert resumed(tmp_path) == -1


def test_numbers_of_numpy_are_saved_as_plain_ones(tmp_path):
    """As VOC's evaluation returns them, and as the best checkpoint keeps them."""
    results = {"bbox": {"AP": np.float64(12.5), "AP50": [np.float32(0.5), (np.int64(3),)]}}
    checkpointer(tmp_path).save("model_best", iteration=np.int64(7), results=results)
    loaded = load_torch(str(tmp_path / "model_best.pth"))  # with weights_only
    assert loaded["iteration"] == 7 and type(loaded["iteration"]) is int
    found = loaded["results"]["bbox"]
    assert found == {"AP": 12.5, "AP50": [0.5, (3,)]} and type(found["AP"]) is float
    assert isinstance(results["bbox"]["AP"], np.float64)  # those of the caller stay


def other(model):
    return {name: torch.zeros(7, *value.shape) for name, value in model.state_dict().items()}


@pytest.mark.parametrize(
    "weights, said",
    [
        (None, "Not trained: 2 of 2 parameters"),
        (other, "Not trained: 2 of 2 parameters of the model are not in .*, such as weight"),
        (lambda model: {"weight": model.weight}, "Not trained: 1 of 2 .*, such as bias"),
    ],
    ids=["none", "of another model", "of half the model"],
)
def test_an_evaluation_of_what_is_not_trained_is_refused(tmp_path, weights, said):
    model, cfg = nn.Linear(50, 50), get_cfg()
    cfg.OUTPUT_DIR, cfg.MODEL.WEIGHTS = str(tmp_path), ""
    if weights:
        cfg.MODEL.WEIGHTS = str(tmp_path / "w.pth")
        torch.save(weights(model), cfg.MODEL.WEIGHTS)
    with pytest.raises(InputError, match=f"{said}.*: name the weights of this model with MODEL.W"):
        load_to_evaluate(cfg, model, resume=False)


def test_an_evaluation_takes_weights_that_fit_or_the_last_ones(folder):
    model, cfg = nn.Linear(50, 50), get_cfg()
    cfg.OUTPUT_DIR, cfg.MODEL.WEIGHTS = str(folder), str(folder / "weights.pth")
    for resume, file in ((False, "weights.pth"), (True, "model_0000039.pth")):
        load_to_evaluate(cfg, model, resume)
        saved = torch.load(folder / file, weights_only=True)
        assert torch.equal(model.weight, saved.get("model", saved)["weight"])


# ---- kills and full disks ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    interrupted.write_images(folder)
    return folder


SHORT = ("SOLVER.CHECKPOINT_PERIOD", 2, "SOLVER.MAX_ITER")


def test_killed_while_the_final_checkpoint_is_written_again(images, tmp_path):
    """That of a finished run, which is extended."""
    big = {"size": 20_000_000, "seconds": 0}
    assert ended(start(1, images, tmp_path, (*SHORT, 2), **big)) == [0]
    final, part = tmp_path / "model_final.pth", tmp_path / "model_final.pth.part"
    before = final.stat()
    (tmp_path / "model_0000001.pth").unlink()  # nothing else is left
    more = ("SOLVER.CHECKPOINT_PERIOD", 100, "SOLVER.MAX_ITER", 4)
    extended = start(1, images, tmp_path, more, True, **big)
    wait_until(lambda: part.exists() and part.stat().st_size > 2**20, extended)
    kill(extended)
    assert part.stat().st_size < before.st_size
    assert (final.stat().st_size, final.stat().st_mtime) == (before.st_size, before.st_mtime)
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    assert ended(start(1, images, tmp_path, more, True, **big)) == [0]
    assert torch.load(final, weights_only=True)["iteration"] == 3 and not part.exists()
    assert max(interrupted.seen(tmp_path)) == 3


def train_as_a_command(*args, **kwargs):
    with errors_in_one_line("train"):
        interrupted.train(*args, **kwargs)


def train_on_a_full_disk(images, output, limit):
    """As far as this process sees: no file grows beyond so many bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    train_as_a_command(images, output, (*SHORT, 8), resume=True, size=500_000)


# 2 MB are written in pieces; PyTorch fails in one of two ways
@pytest.mark.parametrize("limit", [1_000_000, 1_000_000 // 4096 * 4096 + 4096])
def test_a_full_disk_leaves_what_was_there(images, tmp_path, limit):
    assert ended(start(1, images, tmp_path, (*SHORT, 4), size=500_000)) == [0]
    before = {file.name: file.read_bytes() for file in tmp_path.glob("*.pth")}
    assert len(before) == 3
    process = forked.process(target=train_on_a_full_disk, args=(images, tmp_path, limit))
    process.start()
    assert ended([process]) == [1]
    assert {file.name: file.read_bytes() for file in tmp_path.glob("*.pth")} == before
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    assert not list(tmp_path.glob("*.part"))
    printed = (tmp_path / "printed_0").read_text()
    assert "Traceback" not in printed
    (last,) = printed.splitlines()[-1:]
    file = tmp_path / "model_0000005.pth"
    assert last.startswith(f"train: {file} cannot be written: File too large; what was saved")


def test_a_disk_that_is_full_for_the_metrics(images, tmp_path):
    (tmp_path / "metrics.json").symlink_to("/dev/full")
    settings = (images, tmp_path, (*SHORT, 4))
    process = forked.process(target=train_as_a_command, args=settings)
    process.start()
    assert ended([process]) == [1]
    printed = (tmp_path / "printed_0").read_text()
    assert "Traceback" not in printed
    (last,) = printed.splitlines()[-1:]
    assert last == f"train: OUTPUT_DIR {tmp_path}: No space left on device"
