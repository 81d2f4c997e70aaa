"""Files that are written completely or not at all, and errors about missing files."""

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
    Write a file, or let a function write to the open file. It gets its name only when it is
    complete, so a kill leaves the old file or none. Makes folders. OSError names the file.
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
            os.fsync(file.fileno())  # else the new name may reach the disk before the content
        os.replace(part, path)
    except BaseException as e:
        with contextlib.suppress(OSError):
            part.unlink()
        # torch.save then fails again when it closes the file, and raises that error instead.
        cause = e if isinstance(e, OSError) else e.__context__
        if isinstance(cause, OSError):
            raise OSError(f"{path} cannot be written: {cause.strerror}") from e
        raise


def write_output(path: Path, content: bytes | str) -> None:
    """:func:`write_atomically` for a command with ``--output``, which InputError suggests."""
    try:
        write_atomically(path, content)
    except OSError as e:
        raise InputError(f"{e}. Name another place with --output") from e


def must_exist(path: str | Path, what: str) -> None:
    """Raises InputError if there is no such file or folder; ``what`` says what it should be."""
    if not os.path.exists(path):
        raise InputError(f"{path} does not exist; it should be {what}")


def must_be_file(path: str | Path, what: str) -> None:
    """The same, or if it is not a file: reading from a pipe would wait forever."""
    must_exist(path, what)
    if not os.path.isfile(path):
        raise InputError(f"{path} is not a file; it should be {what}")
