"""Checkpoints of strangers, read without running what they may hold."""

import pickle
import re
import tarfile
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from fvcore.common.checkpoint import Checkpointer

from ..data.unpickling import REHEARSED
from ..trust import UntrustedFile, trusted


class _TorchFiles(Checkpointer):
    """What is below DetectionCheckpointer, and reads ``.pth`` files."""

    def _load_file(self, f: str) -> Any:
        return load_torch(f)


class SafeCheckpointer(DetectionCheckpointer, _TorchFiles):
    """
    Detectron2's, which raises UntrustedFile for a file with more than tensors, arrays and plain
    values, unless it is trusted (:mod:`ohem_d2.trust`).
    """

    def _load_file(self, filename: str) -> dict[str, Any]:
        if filename.endswith(".pyth"):
            load_torch(filename)  # Detectron2 does it once more, by itself
        return super()._load_file(REHEARSED * filename.endswith(".pkl") + filename)


def load_torch(file: str) -> Any:
    """
    ``torch.load`` onto the CPU; with ``weights_only`` unless the file is trusted.

    Raises:
        UntrustedFile: names the file and what it holds.
    """
    if not trusted():
        _refuse_programs(file)
    try:
        return torch.load(file, map_location="cpu", weights_only=not trusted())
    except pickle.UnpicklingError as e:
        if trusted():
            raise
        found = re.search(r"(?:GLOBAL|Unsupported class) ([\w.]+)", str(e))
        what = found[1] if found else "more than tensors and plain values"
        raise UntrustedFile(file, f"holds {what}, which may run code") from e


def _refuse_programs(file: str) -> None:
    """What PyTorch before 2.6 runs in spite of ``weights_only``."""
    with open(file, "rb") as opened:
        is_zip = opened.read(4) == b"PK\x03\x04"  # as PyTorch finds out
    if is_zip and "constants.pkl" in torch._C.PyTorchFileReader(file).get_all_records():
        raise UntrustedFile(file, "holds a TorchScript, which is a program")
    if not is_zip and tarfile.is_tarfile(file):
        raise UntrustedFile(file, "is of PyTorch's old tar format, which may run code")
