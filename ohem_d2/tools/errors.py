"""Wrong input ends a command with one line. Bugs keep their traceback."""

import contextlib
import re
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

from torch.multiprocessing import ProcessRaisedException
from yaml import YAMLError

from ..mining.losses import CannotMine

# Errors whose text says enough. Other texts are often short, and their type is added.
_TELLING = (ImportError, NotImplementedError, OSError, ValueError, YAMLError)
# Packages that Detectron2 builds and reads with. Frames of other packages are user code.
_LIBRARIES = {
    *("detectron2", "fvcore", "iopath", "yacs", "omegaconf", "torch", "torchvision", "ohem_d2"),
    *("numpy", "PIL", "pycocotools", "yaml"),
    *sys.stdlib_module_names,
}


class InputError(ValueError):
    """Wrong input. The text names the file or key, in one line, and says how to fix it."""

    def __init__(self, text: str):
        # A data loader's worker sends its traceback as text. The message is at its end.
        text = re.split(rf"{re.escape(__name__)}\.\w+: ", text)[-1]
        super().__init__(printable(re.sub(r"\s*\n\s*", " ", text.strip())))


class UntrustedFile(InputError):
    """A file could run code when it is read, and is not trusted."""

    def __init__(self, file: str | Path, what: str):
        super().__init__(f"{file} {what}; if you trust where the file comes from, add --trust")


def printable(text: str) -> str:
    """On one line, without control characters, which file names and contents may have."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def in_words(error: Exception) -> str:
    """The text of an error, for the user who gave the input."""
    said = str(error)
    if isinstance(error, KeyError) and error.args:  # a sentence, or a key that is not in a dict
        key = error.args[0]
        return key if " " in str(key) else f"key {key!r} is missing"
    if isinstance(error, RecursionError):
        return "it is nested too deeply, or includes itself"
    if isinstance(error, CannotMine) or (said and isinstance(error, _TELLING)):
        return said
    return f"{type(error).__name__}: {said}"


@contextlib.contextmanager
def input_errors(what: str) -> Iterator[None]:
    """
    Use it where Detectron2 builds or reads what the input names. Errors of Detectron2, of libraries
    below it and of ohem_d2's checks become an InputError that begins with ``what``. Errors of user
    code, such as a backbone, stay as they are.
    """
    try:
        yield
    except InputError:  # It already says what is wrong.
        raise
    except Exception as e:
        if _is_bug(e):
            raise
        raise InputError(f"{what}: {in_words(e)}") from e


def _is_bug(error: Exception) -> bool:
    if isinstance(error, CannotMine):
        return False
    # The first two frames are the context manager and the function that uses it.
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)][2:]
    packages = [str(frame.f_globals.get("__name__")).partition(".")[0] for frame in frames]
    if packages[-1:] == ["ohem_d2"]:
        return not isinstance(error, (ImportError, KeyError, ValueError))  # from its checks
    return not _LIBRARIES.issuperset(packages)


@contextlib.contextmanager
def errors_in_one_line(command: str) -> Iterator[None]:
    """End a command with status 1 and one line for wrong input. ``__cause__`` is the error."""
    try:
        yield
    except InputError as e:
        raise SystemExit(f"{command}: {e}") from e
    except ProcessRaisedException as e:  # a child process sends its traceback as text
        if not str(e).strip().rpartition("\n")[2].startswith(f"{__name__}."):
            raise
        raise SystemExit(f"{command}: {InputError(str(e))}") from e
