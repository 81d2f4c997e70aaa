"""Files that are there whole or not at all."""

import contextlib
import os
from pathlib import Path


def write_atomically(path: str | Path, content: bytes | str) -> None:
    """
    The file has its name only when it is complete: a process that is killed leaves the old one, or
    none. Folders that it takes are made.

    Raises:
        OSError: names the file.
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(part, path)
    except OSError as e:
        with contextlib.suppress(OSError):
            part.unlink()
        raise OSError(f"{path} cannot be written: {e.strerror}") from e
