"""Pickles of strangers, Detectron2's and Caffe2's weights and proposals, read without a risk."""

import io
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from detectron2.config import CfgNode
from detectron2.utils.file_io import PathHandler, PathManager

from ..errors import InputError, UntrustedFile, in_words
from ..trust import trusted
from .restricted_unpickler import HarmfulPickle, RestrictedUnpickler

#: Detectron2 reads ``checked://FILE`` without a risk, where it would run the program in FILE.
CHECKED = "checked://"


def read_pickle(file: str | Path) -> Any:
    """
    Read a pickle, text of Python 2 included. Unless it is trusted (:mod:`ohem_d2.tools.trust`), it
    may hold arrays of numbers, containers and text; UntrustedFile names it and what else it holds,
    InputError one that cannot be read.
    """
    try:
        with PathManager.open(str(file), "rb") as opened:
            try:
                return RestrictedUnpickler(opened, encoding="latin1").load()
            except Exception:
                if not trusted():
                    raise
                opened.seek(0)
                return pickle.load(opened, encoding="latin1")
    except HarmfulPickle as e:
        raise UntrustedFile(file, f"holds {e}, which may run code or crash") from None
    except Exception as e:  # which may be any
        raise _unreadable(file, e) from e


def _unreadable(file: str | Path, error: Exception) -> InputError:
    return InputError(f"{file} is no pickle that can be read: {in_words(error)}")


class _CheckedFiles(PathHandler):
    """Detectron2 unpickles what it opens: it is given what was read, pickled again."""

    def _get_supported_prefixes(self) -> list[str]:
        return [CHECKED]

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> IO[bytes]:
        file = path[len(CHECKED) :]
        content = read_pickle(file)
        try:
            return io.BytesIO(pickle.dumps(content, protocol=5))
        except Exception as e:  # it is nested too deeply
            raise _unreadable(file, e) from e


PathManager.register_handler(_CheckedFiles())


def checked(files: Sequence[str]) -> tuple[str, ...]:
    """The names under which Detectron2 reads files, of proposals, say, without a risk."""
    return tuple(CHECKED + file for file in files)


def with_checked_proposals(cfg: CfgNode) -> CfgNode:
    """A copy of the configuration that names its proposal files so, if there are any."""
    if not cfg.MODEL.LOAD_PROPOSALS:
        return cfg
    cfg = cfg.clone()
    cfg.defrost()
    for key in ("PROPOSAL_FILES_TRAIN", "PROPOSAL_FILES_TEST"):
        cfg.DATASETS[key] = checked(cfg.DATASETS[key])
    return cfg
