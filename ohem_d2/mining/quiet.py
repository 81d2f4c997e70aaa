"""Keeping back what Detectron2 logs, from this thread alone."""

import threading
from typing import Any

from detectron2.utils.events import EventStorage, get_event_storage


class QuietStorage(EventStorage):
    """
    While it is entered, what this thread logs is kept here, and nowhere else.

    Detectron2 has one stack of storages for all threads, and with ``async_write_metrics`` another
    thread logs the losses of the last step meanwhile. To every thread but the one that made it
    this object is the storage below, so that nothing of theirs is lost.
    """

    def __init__(self) -> None:
        self._below = get_event_storage()
        self._thread = threading.get_ident()
        super().__init__(self._below.iter)

    def __getattribute__(self, name: str) -> Any:
        attributes = object.__getattribute__(self, "__dict__")
        if name[:2] != "__" and attributes.get("_thread") != threading.get_ident():
            return getattr(attributes["_below"], name)
        return object.__getattribute__(self, name)

    def pass_on(self, *, but: tuple[str, ...] = ()) -> None:
        """Log what was kept to the storage below, without names that end in one of ``but``."""
        for name, (value, iteration) in self.latest().items():
            if not name.endswith(but or ("\0",)):
                self._below.put_scalar(name, value, cur_iter=iteration)
