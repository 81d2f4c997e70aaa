"""Checkpoints in all formats: what is loaded as Detectron2 loads it, and what is refused."""

import argparse
import pickle
import tarfile

import hostile
import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from ohem_d2.tools.errors import UntrustedFile
from ohem_d2.tools.training.checkpoints import Checkpointer, load_torch
from ohem_d2.tools.trust import trusting


def model():
    return nn.ModuleDict({"fc1": nn.Linear(3, 2)})


def arrays(*names):
    shapes = ((2, 3), (2,))
    return {n: np.full(s, i + 1, np.float32) for i, (n, s) in enumerate(zip(names, shapes))}


TENSORS = {k: torch.from_numpy(v) for k, v in arrays("fc1.weight", "fc1.bias").items()}
SOUND = {
    "zoo.pkl": {"model": arrays("fc1.weight", "fc1.bias"), "__author__": "x"},
    "caffe2.pkl": {"blobs": {**arrays("fc1_w", "fc1_b"), "fc1_w_momentum": np.zeros(2)}},
    "imagenet.pkl": arrays("fc1_w", "fc1_b"),
    "state.pth": TENSORS,
    "whole.pth": {"model": TENSORS, "iteration": 3, "trainer": {"hooks": {"x": [1.5, (2,)]}}},
    "pycls.pyth": {"model_state": TENSORS, "cfg": "text"},
}


def write(path, data):
    if path.suffix == ".pkl":
        path.write_bytes(pickle.dumps(data, protocol=2))
    else:
        torch.save(data, path)
    return str(path)


@pytest.mark.parametrize("name", SOUND)
def test_loads_as_detectron2_does(name, tmp_path):
    file = write(tmp_path / name, SOUND[name])
    ours, theirs = model(), model()
    left = Checkpointer(ours).load(file)
    assert left.keys() == DetectionCheckpointer(theirs).load(file).keys()
    for value, expected, first in zip(ours.parameters(), theirs.parameters(), (1, 2)):
        assert torch.equal(value, expected) and value.flatten()[0] == first


@pytest.mark.parametrize("suffix", [".pkl", ".pth", ".pyth"])
def test_a_payload_is_refused(suffix, tmp_path):
    data = {"model": {}, "model_state": {}, "__author__": hostile.Payload(tmp_path / "canary")}
    file = write(tmp_path / f"w{suffix}", data)
    with pytest.raises(UntrustedFile, match=rf"w{suffix} holds posix.mkdir, .* --trust") as error:
        Checkpointer(model()).load(file)
    assert len(str(error.value).splitlines()) == 1 and not (tmp_path / "canary").exists()
    if suffix != ".pyth":  # of which Detectron2 leaves PyTorch no choice
        with trusting():
            Checkpointer(model()).load(file)
        assert (tmp_path / "canary").exists()


def test_programs_are_refused_whatever_pytorch_makes_of_them(tmp_path):
    """Before 2.6 it runs them in spite of ``weights_only``."""
    torch.jit.script(nn.Linear(1, 1)).save(str(tmp_path / "script.pth"))
    with tarfile.open(tmp_path / "tar.pth", "w") as archive:
        archive.add(tmp_path / "script.pth", "storages")
    torch.save({"a": argparse.Namespace(x=1)}, tmp_path / "object.pth")
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps({"model": {}}))
    for name, said in (
        ("script", "a TorchScript, which is a program"),
        ("tar", "old tar format"),
        ("object", "holds argparse.Namespace, which may run code"),
        ("pickle", "more than tensors and plain values"),
    ):
        with pytest.raises(UntrustedFile, match=rf"{name}.pth .*{said}.*; if you trust"):
            load_torch(str(tmp_path / f"{name}.pth"))
    with trusting():
        assert load_torch(str(tmp_path / "object.pth"))["a"].x == 1
