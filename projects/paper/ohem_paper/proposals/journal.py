"""A file that results are appended to as they come, so that a run that is killed can go on."""

import pickle
from pathlib import Path
from typing import Any

from ..unpickling import ArrayUnpickler


class Journal:
    """
    Pickles one after the other: first the head, which tells what was computed how, then pairs of
    key and value, of plain types and NumPy arrays. A process that is killed loses at most the pair
    that it was writing.

    Attributes:
        entries: what has been appended so far, by earlier runs too.
    """

    def __init__(self, path: Path, head: dict):
        """Raises ValueError if the file has another head or is no journal."""
        self.path = path
        self.entries: dict[Any, Any] = {}
        end = self._read(head) if path.exists() else 0
        self._file = open(path, "r+b" if end else "wb")  # noqa: SIM115
        self._file.seek(end)
        self._file.truncate()  # cuts off a pair that is not whole
        if end == 0:
            self._write(head)

    def _read(self, head: dict) -> int:
        """Where the last whole pair ends."""
        end = 0
        with open(self.path, "rb") as file:
            while True:
                try:
                    read = ArrayUnpickler(file).load()
                except Exception:  # a broken pickle may raise anything
                    break
                if end == 0:
                    self._compare(read, head)
                else:
                    key, value = read
                    self.entries[key] = value
                end = file.tell()
        if end == 0 and self.path.stat().st_size:
            raise ValueError(f"{self.path} is no journal of an earlier run; remove it")
        return end

    def _compare(self, found: object, head: dict) -> None:
        if found == head:
            return
        found = found if isinstance(found, dict) else {}
        different = []
        for key, value in head.items():
            if found.get(key) != value:
                values = f"{found.get(key)!r}, now {value!r}"
                different.append(f"{key} {values}" if len(values) < 200 else f"another {key}")
        raise ValueError(
            f"{self.path}: the earlier run had {'; '.join(different)}. Go on with its settings, or "
            "remove the file"
        )

    def append(self, key: Any, value: Any) -> None:
        self._write((key, value))
        self.entries[key] = value

    def _write(self, record: object) -> None:
        self._file.write(pickle.dumps(record, protocol=4))
        self._file.flush()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
