"""
Pickles of strangers: Detectron2's and Caffe2's weights, and proposals.

A pickle is a program, which may name any function and call it. So it is rehearsed before it is
loaded: run in Python, with stand-ins for the few functions of which arrays of numbers are made.
Each takes what NumPy itself writes, and nothing else; neither functions nor what they make can be
changed; and all other names are refused. What comes through is then loaded from the very same open
file. The stand-ins hold no memory to be misread, so that the rehearsal cannot crash.
"""

import math
import pickle
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.utils.file_io import PathHandler, PathManager

from ..trust import UntrustedFile, trusted

#: ``rehearsed://FILE`` is a file that Detectron2 cannot open before it has been rehearsed.
REHEARSED = "rehearsed://"

# Whole and real and complex numbers, truth values, and text, of which NumPy makes scalars
_DTYPES = re.compile("[biufcU][1-9][0-9]{0,3}")


class _Harmful(Exception):
    """The text is what a pickle holds or does."""


def _need(holds: object, what: str = "an array that is not sound") -> None:
    if not holds:
        raise _Harmful(what)


class _StandIn:
    """For what a pickle names or makes. It can be handed on, and that is all."""

    def __call__(self, *args: object) -> object:
        raise _Harmful("a call of what is no function")

    def __setstate__(self, state: object) -> None:
        raise _Harmful("a change of what is no array")


# What may be a key, or in a set
_PLAIN = (str, bytes, int, float, type(None), _StandIn)


class _Function(_StandIn):
    def __init__(self, function: Callable):
        self._function = function

    def __call__(self, *args: object) -> object:
        return self._function(*args)


class _DType(_StandIn):
    def __init__(self, code: object, align: object, copy: object):
        _need(isinstance(code, str) and align in (0, 1) and copy in (1,))
        _need(_DTYPES.fullmatch(code), f"numpy.dtype({ascii(code[:20])})")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: object) -> None:
        # It tells the order of bytes. A dtype takes it as it is, sizes and pointers included.
        _need(isinstance(state, tuple) and len(state) == 8 and state[1] in tuple("<>|"))
        _need(self.dtype.newbyteorder(state[1]).__reduce__()[2] == state)


class _Array(_StandIn):
    def __init__(self, kind: object, shape: object, code: object):
        _need(kind is _NDARRAY and shape == (0,) and code in ("b", b"b"))

    def __setstate__(self, state: object) -> None:
        _need(isinstance(state, tuple) and len(state) == 5)
        version, shape, dtype, is_fortran, data = state
        _need(version in (0, 1) and is_fortran in (0, 1) and isinstance(dtype, _DType))
        # Python 2's bytes are text here.
        _need(isinstance(data, (bytes, str)) and _is_shape(shape))
        _need(math.prod(shape) * dtype.dtype.itemsize == len(data))


def _is_shape(shape: object) -> bool:
    is_tuple = isinstance(shape, tuple) and len(shape) <= 32
    return is_tuple and all(type(n) is int and n >= 0 for n in shape)


def _from_buffer(
    data: object, dtype: object, shape: object, order: object, axes: object = ()
) -> _StandIn:
    _need(isinstance(data, (bytes, bytearray)) and isinstance(dtype, _DType))
    _need(_is_shape(shape) and order in tuple("CFK") and (axes is None or _is_shape(axes)))
    _need(math.prod(shape) * dtype.dtype.itemsize == len(data))
    return _StandIn()


def _scalar(dtype: object, data: object) -> _StandIn:
    _need(isinstance(dtype, _DType) and isinstance(data, (bytes, str)))
    _need(dtype.dtype.itemsize == len(data))
    return _StandIn()


def _encode(text: object, encoding: object) -> bytes:
    _need(isinstance(text, str) and encoding == "latin1", "a call of _codecs.encode")
    return text.encode("latin1")


def _dict(pairs: object = ()) -> dict:
    _need(isinstance(pairs, (list, tuple)), "an OrderedDict that is not sound")
    _need(all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs))
    _need_plain(key for key, _ in pairs)
    return dict(pairs)


def _need_plain(keys: Iterable[object]) -> None:
    # To hash a tuple of tuples of tuples takes a stack that ends, and the process with it.
    _need(all(isinstance(key, _PLAIN) for key in keys), "a key that is neither text nor a number")


def _box_mode(value: object) -> _StandIn:
    _need(type(value) is int, "a BoxMode that there is not")
    return _StandIn()


_NDARRAY = _StandIn()
_STAND_INS = {
    "numpy.ndarray": _NDARRAY,
    "numpy.dtype": _Function(_DType),
    "numpy.core.multiarray._reconstruct": _Function(_Array),
    "numpy.core.multiarray.scalar": _Function(_scalar),
    "numpy.core.numeric._frombuffer": _Function(_from_buffer),
    "_codecs.encode": _Function(_encode),
    "__builtin__.bytes": _Function(lambda: b""),
    "collections.OrderedDict": _Function(_dict),
    "detectron2.structures.boxes.BoxMode": _Function(_box_mode),
}


class _Rehearsal(pickle._Unpickler):  # in Python, where a huge place in the memo takes no memory
    def find_class(self, module: str, name: str) -> _StandIn:
        full_name = f"{module}.{name}"
        # NumPy 2 has its parts elsewhere.
        found = _STAND_INS.get(full_name.replace("numpy._core.", "numpy.core."))
        if found is None:
            raise _Harmful(ascii(full_name[:80])[1:-1])
        return found

    def load_bytearray8(self) -> None:
        # Python's own takes all the memory that is asked for before it reads.
        self.append(bytearray(self.read(int.from_bytes(self.read(8), "little"))))

    def load_setitem(self) -> None:
        _need_plain(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self) -> None:
        _need_plain(self.stack[::2])
        super().load_setitems()

    def load_dict(self) -> None:
        _need_plain(self.stack[::2])
        super().load_dict()

    def load_additems(self) -> None:
        _need_plain(self.stack)
        super().load_additems()

    def load_frozenset(self) -> None:
        _need_plain(self.stack)
        super().load_frozenset()

    dispatch = {
        **pickle._Unpickler.dispatch,
        pickle.BYTEARRAY8[0]: load_bytearray8,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.DICT[0]: load_dict,
        pickle.ADDITEMS[0]: load_additems,
        pickle.FROZENSET[0]: load_frozenset,
    }


def _rehearse(file: IO[bytes], name: str | Path) -> None:
    reader = _Rehearsal(file, encoding="latin1")
    try:
        reader.load()
        # The unpickler in C makes room for all places up to the last.
        if max(reader.memo, default=0) > file.tell():
            raise _Harmful("a place in the memo that takes gigabytes")
    except _Harmful as e:
        raise UntrustedFile(name, f"holds {e}, which may run code or crash") from None
    except Exception as e:  # a broken pickle may raise anything
        raise _broken(name, e) from e
    file.seek(0)


def _broken(name: str | Path, error: Exception) -> ValueError:
    said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return ValueError(f"{name} is no pickle that can be read: {said}")


def open_pickle(file: str | Path) -> IO[bytes]:
    """
    The open file, which can be loaded without a risk, or is trusted.

    Raises:
        UntrustedFile: names the file and what it holds.
        OSError, ValueError: if it cannot be read.
    """
    opened = PathManager.open(str(file), "rb")
    try:
        if not trusted():
            _rehearse(opened, file)
    except BaseException:
        opened.close()
        raise
    return opened


def read_pickle(file: str | Path) -> Any:
    """What the file holds, text of Python 2 included; with the errors of :func:`open_pickle`."""
    with open_pickle(file) as opened:
        try:
            return pickle.load(opened, encoding="latin1")
        except Exception as e:
            raise _broken(file, e) from e


class _RehearsedFiles(PathHandler):
    def _get_supported_prefixes(self) -> list[str]:
        return [REHEARSED]

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> IO[bytes]:
        return open_pickle(path[len(REHEARSED) :])


PathManager.register_handler(_RehearsedFiles())


def rehearsed(files: Sequence[str]) -> tuple[str, ...]:
    """Under these names Detectron2 reads proposals, say, that were rehearsed."""
    return tuple(REHEARSED + file for file in files)


def with_rehearsed_proposals(cfg: CfgNode) -> CfgNode:
    """The same for the proposal files of a configuration, in a copy of it."""
    if not cfg.MODEL.LOAD_PROPOSALS:
        return cfg
    cfg = cfg.clone()
    cfg.defrost()
    for key in ("PROPOSAL_FILES_TRAIN", "PROPOSAL_FILES_TEST"):
        cfg.DATASETS[key] = rehearsed(cfg.DATASETS[key])
    return cfg
