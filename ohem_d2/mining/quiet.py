"""Keeping back what Detectron2 logs, from this thread alone."""

import threading
from typing import Any

from detectron2.utils.events import EventStorage, get_event_storage


class QuietStorage(EventStorage):
    """
    While it is entered, what this thread logs goes nowhere else.

    Detectron2 has one stack of storages for all threads, and with ``async_write_metrics`` another
    thread logs the losses of the last step meanwhile. To every thread but the one that made it
    this object is the storage below, so that nothing of theirs is lost.
    """

    def __init__(self, only: tuple[str, ...] = ()):
        """Keep back scalars whose names end like ``only``, and nothing else; empty: everything."""
        below = get_event_storage()
        self._below, self._only, self._thread = below, only, threading.get_ident()
        super().__init__(below.iter)

    def __getattribute__(self, name: str) -> Any:
        own = object.__getattribute__(self, "__dict__")
        elsewhere = own.get("_thread") != threading.get_ident()
        if name[:2] != "__" and (elsewhere or own["_only"] and name != "put_scalar"):
            return getattr(own["_below"], name)
        return object.__getattribute__(self, name)

    def put_scalar(self, name: str, *args: Any, **kwargs: Any) -> None:
        """See the parent."""
        own = object.__getattribute__(self, "__dict__")
        if not own["_only"]:
            super().put_scalar(name, *args, **kwargs)
        elif not name.endswith(own["_only"]):
            own["_below"].put_scalar(name, *args, **kwargs)
