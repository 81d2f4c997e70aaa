"""
Read untrusted pickles safely: Detectron2's and Caffe2's weights, and proposals. A pickle may call
any function. Here it finds only the few that arrays of numbers need, and these check their
arguments. The base class is the one in Python, since the one in C allocates what a pickle claims.
"""

import io
import math
import pickle
import re
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathHandler, PathManager

from ..errors import InputError, UntrustedFile, in_words
from ..trust import trusted

#: Detectron2 reads ``checked://FILE`` safely; FILE alone could run code.
CHECKED = "checked://"
_DTYPES = re.compile("[biufcU][1-9][0-9]{0,3}")  # numbers, booleans and text
_NDARRAY = object()  # pickles name it, but do not call it


class HarmfulPickle(Exception):
    """A pickle could do harm. The text says what it holds or does."""


def _need(holds, what="an array that is not sound"):
    if not holds:
        raise HarmfulPickle(what)


def _key(key):
    # Hashing deeply nested tuples overflows the stack, which kills the process.
    plain = isinstance(key, (str, bytes, int, float, type(None), np.generic))
    _need(plain, "a key that is neither text nor a number")
    return key


def _memory(data, dtype, shape):
    """The data, if they have exactly the bytes that the array needs."""
    _need(type(shape) is tuple and len(shape) <= 32 and isinstance(dtype, np.dtype))
    _need(all(type(n) is int and 0 <= n < 2**40 for n in shape))
    data = data.encode("latin1") if type(data) is str else data  # Python 2's bytes come as text
    _need(type(data) in (bytes, bytearray) and len(data) == math.prod(shape) * dtype.itemsize)
    return data


def _dtype(code, align, copy):
    _need(type(code) is str and _DTYPES.fullmatch(code), f"numpy.dtype({code!a:.20})")
    return np.dtype(code, copy=True)  # load_build may change it


def _reconstruct(kind, shape, code):
    _need(kind is _NDARRAY and shape == (0,) and code in ("b", b"b"))
    return np.empty(0, "b")  # load_build fills it


def _frombuffer(
    data: object, dtype: np.dtype, shape: tuple, order: str, axes: tuple = ()
) -> object:
    array = np.frombuffer(_memory(data, dtype, shape), dtype)
    array = array.reshape(shape, order="F" if order == "F" else "C")
    return array.transpose(axes) if axes else array


_FUNCTIONS = {
    "numpy.ndarray": _NDARRAY,
    "numpy.dtype": _dtype,
    "numpy.core.multiarray._reconstruct": _reconstruct,
    "numpy.core.multiarray.scalar": lambda dtype, data: _frombuffer(data, dtype, (1,), "C")[0],
    "numpy.core.numeric._frombuffer": _frombuffer,  # NumPy 1 gives no axes
    "_codecs.encode": lambda s, how: _need(how == "latin1", "_codecs.encode") or s.encode(how),
    "__builtin__.bytes": lambda: b"",
    "collections.OrderedDict": lambda pairs=(): OrderedDict((_key(k), v) for k, v in pairs),
    "detectron2.structures.boxes.BoxMode": lambda value: BoxMode(int(value)),
}


class RestrictedUnpickler(pickle._Unpickler):
    """``load`` raises HarmfulPickle, or any other error if the pickle is broken."""

    get_extension = load_readonly_buffer = None  # no other classes, and no views of memory

    def find_class(self, module: str, name: str) -> object:
        name = f"{module}.{name}".replace("numpy._core.", "numpy.core.")  # NumPy 2 has other names
        _need(name in _FUNCTIONS, f"{name:.80}".encode("unicode_escape").decode())
        return _FUNCTIONS[name]

    def load_build(self) -> None:
        state, built = self.stack.pop(), self.stack[-1]
        if isinstance(built, np.dtype):  # The state may only set the byte order.
            _need(state == built.newbyteorder(state[1]).__reduce__()[2])
        else:
            _need(type(built) is np.ndarray and not built.size, "a change of what is no array")
            version, shape, dtype, is_fortran, data = state
            state = (1, shape, dtype, is_fortran == 1, bytes(_memory(data, dtype, shape)))
        built.__setstate__(state)

    def load_bytearray8(self) -> None:
        # The parent allocates all the memory that a pickle claims before it reads.
        self.append(bytearray(self.read(int.from_bytes(self.read(8), "little"))))

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append(dict(zip(map(_key, items[::2]), items[1::2])))

    def load_setitems(self) -> None:
        self.load_dict()
        self.stack[-2].update(self.stack.pop())

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.stack[-1].update({_key(key): value})

    def load_frozenset(self) -> None:
        items = frozenset(map(_key, self.pop_mark()))
        self.append(items)

    def load_additems(self) -> None:
        self.load_frozenset()
        self.stack[-2].update(self.stack.pop())


RestrictedUnpickler.dispatch = {
    code: getattr(RestrictedUnpickler, load.__name__)
    for code, load in pickle._Unpickler.dispatch.items()
}


def read_pickle(file: str | Path) -> Any:
    """
    Read a pickle, also one with text of Python 2. Unless trusted (:mod:`ohem_d2.tools.trust`), it
    may hold only arrays of numbers, containers and text. UntrustedFile names the file and what else
    it holds. InputError if it cannot be read.
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
    except Exception as e:  # a broken pickle may raise any
        raise _unreadable(file, e) from e


def _unreadable(file: str | Path, error: Exception) -> InputError:
    return InputError(f"{file} is no pickle that can be read: {in_words(error)}")


class _CheckedFiles(PathHandler):
    """Detectron2 unpickles what it opens, so it gets the safely read content, pickled again."""

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
    """The names under which Detectron2 reads files, such as proposals, safely."""
    return tuple(CHECKED + file for file in files)


def with_checked_proposals(cfg: CfgNode) -> CfgNode:
    """A copy of the configuration with :func:`checked` proposal files, if it has any."""
    if not cfg.MODEL.LOAD_PROPOSALS:
        return cfg
    cfg = cfg.clone()
    cfg.defrost()
    for key in ("PROPOSAL_FILES_TRAIN", "PROPOSAL_FILES_TEST"):
        cfg.DATASETS[key] = checked(cfg.DATASETS[key])
    return cfg
