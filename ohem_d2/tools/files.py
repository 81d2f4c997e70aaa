"""Files that are there whole or not at all, and errors about those that cannot be."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

from .errors import InputError


def write_atomically(
    path: str | Path, content: bytes | str | Callable[[IO[bytes]], object]
) -> None:
    """
    Write a file, or call what writes to the open one. It has its name only when it is complete, and
    a kill leaves the old one, or none. Makes folders; OSError names the file.
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    content = content.encode() if isinstance(content, str) else content
    write = content if callable(content) else lambda file: file.write(content)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())  # or the new name may reach the disk first
        os.replace(part, path)
    except BaseException as e:
        with contextlib.suppress(OSError):
            part.unlink()
        # torch.save then fails at the end of the file, too, and raises that in its place.
        cause = e if isinstance(e, OSError) else e.__context__
        if isinstance(cause, OSError):
            raise OSError(f"{path} cannot be written: {cause.strerror}") from e
        raise


def write_output(path: Path, content: bytes | str) -> None:
    """:func:`write_atomically` for a command with ``--output``, which InputError names."""
    try:
        write_atomically(path, content)
    except OSError as e:
        raise InputError(f"{e}. Name another place with --output") from e


def must_exist(path: str | Path, what: str) -> None:
    """Raises InputError if there is no such file or folder; ``what`` says what it should be."""
    if not os.path.exists(path):
        raise InputError(f"{path} does not exist; it should be {what}")


def must_be_file(path: str | Path, what: str) -> None:
    """The same, and if it is no file, as a pipe, which would be waited for."""
    must_exist(path, what)
    if not os.path.isfile(path):
        raise InputError(f"{path} is no file; it should be {what}")
