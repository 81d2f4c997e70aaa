"""What a command does about wrong input, and about output that cannot be written."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from torch.multiprocessing.spawn import ProcessRaisedException

from .files import write_atomically
from .input_errors import InputError


@contextlib.contextmanager
def told(command: str) -> Iterator[None]:
    """
    For all that a command does, whose name is given.

    Raises:
        SystemExit: says in one line what of the input is wrong; its ``__cause__`` is the error.
            Anything else is a bug, here or in a model of one's own, and is left as it is.
    """
    try:
        yield
    except InputError as e:
        raise SystemExit(f"{command}: {e}") from e
    except ProcessRaisedException as e:  # one of several, which sends its traceback as text
        if not str(e).strip().rpartition("\n")[2].startswith(InputError.names()):
            raise
        raise SystemExit(f"{command}: {InputError(str(e))}") from e


def write_output(path: Path, content: bytes | str) -> None:
    """:func:`ohem_d2.tools.files.write_atomically`, whose errors say what to do."""
    try:
        write_atomically(path, content)
    except OSError as e:
        raise InputError(f"{e}. Name another place with --output") from e
