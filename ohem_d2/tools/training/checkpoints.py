"""Checkpoints that are written whole or not at all, and safe reading of untrusted weights."""

import contextlib
import pickle
import re
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from fvcore.common.checkpoint import Checkpointer as FvcoreCheckpointer
from torch import nn

from ..data.unpickling import CHECKED
from ..errors import InputError, UntrustedFile, in_words, input_errors
from ..files import write_atomically
from ..trust import trusted

_LAST = "last_checkpoint"


class _TorchFiles(FvcoreCheckpointer):
    """Reads ``.pth`` files. It comes after DetectionCheckpointer in the MRO."""

    def _load_file(self, f: str) -> Any:
        return load_torch(f)


class Checkpointer(DetectionCheckpointer, _TorchFiles):
    """
    Detectron2's checkpointer, whose files a kill or a full disk leaves intact. If the last
    checkpoint cannot be read, the newest readable one replaces it. UntrustedFile for a file with
    more than tensors, arrays and plain values, unless trusted (:mod:`ohem_d2.tools.trust`).
    """

    _lacking: set[str] | None = None  # parameters that the last loaded file lacked

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        super()._log_incompatible_keys(incompatible)
        wrong = [name for name, *_ in incompatible.incorrect_shapes]
        self._lacking = {*incompatible.missing_keys, *wrong}

    def untrained(self) -> str:
        """A note on parameters that the last file lacked or had in another shape, or ""."""
        names = [name for name, _ in self.model.named_parameters()]
        lacking = [n for n in names if self._lacking is None or n in self._lacking]
        if not lacking:
            return ""
        where = f"are not in the weights, or have another shape there, such as {lacking[0]}"
        return f"Not trained: {len(lacking)} of {len(names)} parameters of the model {where}"

    def _load_file(self, filename: str) -> dict[str, Any]:
        if filename.endswith(".pyth"):
            load_torch(filename)  # as a check only: Detectron2 loads it again
        return super()._load_file(CHECKED * filename.endswith(".pkl") + filename)

    def save(self, name: str, **kwargs: Any) -> None:
        """See the parent. Raises InputError if the file cannot be written."""
        if not self.save_dir or not self.save_to_disk:
            return
        states = {key: part.state_dict() for key, part in self.checkpointables.items()}
        content = {"model": self.model.state_dict(), **states, **_plain(kwargs)}
        file = Path(self.save_dir, f"{name}.pth")
        self.logger.info(f"Saving checkpoint to {file}")
        try:
            write_atomically(file, lambda opened: torch.save(content, opened))
            self.tag_last_checkpoint(file.name)
        except OSError as e:
            raise InputError(f"{e}; what was saved before is whole, and --resume takes it") from e

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """See the parent."""
        write_atomically(Path(self.save_dir, _LAST), last_filename_basename)

    def has_checkpoint(self) -> bool:
        """Whether there is one, readable or not."""
        return super().has_checkpoint() or any(Path(self.save_dir).glob("model_*.pth"))

    def get_checkpoint_file(self) -> str:
        """The last one, or else the newest readable one. Raises InputError if there is none."""
        last, problem = Path(self.save_dir, _LAST), "does not exist"
        if last.exists():
            name = last.read_text(errors="replace").strip()
            try:
                return str(_whole(last.with_name(name)))
            except Exception as e:
                problem = f"names {name!r}, which cannot be read ({e})"
        found = {}
        for file in last.parent.glob("*.pth"):
            with contextlib.suppress(Exception):  # it cannot be read, or is not of a training
                found[load_torch(str(_whole(file)))["trainer"]["iteration"]] = file
        if not found:
            none = f"{last} {problem}, and no other checkpoint beside it can be read"
            raise InputError(f"--resume: {none}. Put one back, or begin anew with --overwrite")
        newest = max(found)
        lost = f"what was trained from iteration {newest + 1} on is lost, and trained again"
        self.logger.warning(f"{last} {problem}. Going on from {found[newest]}: {lost}")
        return str(found[newest])


def _plain(value: Any) -> Any:
    """Turn NumPy's numbers, such as metrics, into Python's, which need no trust to be read."""
    if isinstance(value, dict):
        return {key: _plain(x) for key, x in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_plain, value))
    return value.item() if isinstance(value, np.generic) else value


def weights_of(cfg: CfgNode, resume: bool) -> str:
    """What a run begins with, in words."""
    resumes = resume and Path(cfg.OUTPUT_DIR, _LAST).exists()
    return f"The last checkpoint in {cfg.OUTPUT_DIR}" if resumes else cfg.MODEL.WEIGHTS


def load_to_evaluate(cfg: CfgNode, model: nn.Module, resume: bool) -> None:
    """Load MODEL.WEIGHTS, or the last checkpoint. InputError if a parameter is not in it."""
    checkpointer = Checkpointer(model, save_dir=cfg.OUTPUT_DIR)
    with input_errors(f"{weights_of(cfg, resume)} cannot be loaded"):
        checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    if note := checkpointer.untrained():
        how = "name the weights of this model with MODEL.WEIGHTS, or add --resume for the last ones"
        raise InputError(f"{note}: {how} in {cfg.OUTPUT_DIR}")


def _whole(file: Path) -> Path:
    """Raises an error unless each part of the file is there, with the right checksum."""
    with zipfile.ZipFile(file) as parts:
        if torn := parts.testzip():
            raise zipfile.BadZipFile(f"{torn} is damaged")
    return file


def load_torch(file: str) -> Any:
    """``torch.load`` onto the CPU: only tensors and plain values, unless the file is trusted."""
    try:
        if not trusted():
            _refuse_programs(file)
        return torch.load(file, map_location="cpu", weights_only=not trusted())
    except InputError:
        raise
    except Exception as e:  # a broken file may raise any
        if isinstance(e, pickle.UnpicklingError) and not trusted():
            found = re.search(r"(?:GLOBAL|Unsupported class) ([\w.]+)", str(e))
            what = found[1] if found else "more than tensors and plain values"
            raise UntrustedFile(file, f"holds {what}, which may run code") from e
        raise InputError(f"{file} cannot be loaded: {in_words(e)}") from e


def _refuse_programs(file: str) -> None:
    """Refuse programs, which PyTorch < 2.6 may run despite ``weights_only``, and other formats."""
    with open(file, "rb") as opened:
        begins = opened.read(4)
    is_zip = begins == b"PK\x03\x04"  # as PyTorch itself tests it
    if is_zip and "constants.pkl" in torch._C.PyTorchFileReader(file).get_all_records():
        raise UntrustedFile(file, "holds a TorchScript, which is a program")
    if not is_zip and tarfile.is_tarfile(file):
        raise UntrustedFile(file, "is of PyTorch's old tar format, which may run code")
    if not is_zip and not begins.startswith(b"\x80"):
        raise InputError(f"{file} cannot be loaded: it is not a PyTorch file")
