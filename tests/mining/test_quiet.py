import threading

import torch
from detectron2.utils.events import EventStorage, get_event_storage

from ohem_d2.mining.quiet import QuietStorage


def in_another_thread(function):
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


def test_keeps_what_this_thread_logs():
    with EventStorage(7) as storage:
        with QuietStorage() as quiet:
            assert get_event_storage().iter == 7
            get_event_storage().put_scalar("a", 1.0)
            get_event_storage().put_scalars(b=2.0)
        assert get_event_storage() is storage and storage.latest() == {}
        assert quiet.latest() == {"a": (1.0, 7), "b": (2.0, 7)}


def test_keeps_only_some_scalars():
    """The others, with their hints and scopes, are logged as if it were not there."""
    with EventStorage(7) as storage:
        with QuietStorage(only=("/count",)):
            inner = get_event_storage()
            with inner.name_scope("scope"):
                inner.put_scalar("a/count", 1.0)
                inner.put_scalar("b", 2.0, smoothing_hint=False)
                inner.put_scalar("b", 3.0, smoothing_hint=False)
            inner.put_image("picture", torch.zeros(3, 2, 2))
            in_another_thread(lambda: get_event_storage().put_scalar("a/count", 4.0))
        assert storage.latest() == {"scope/b": (3.0, 7), "a/count": (4.0, 7)}
        assert len(storage.history("scope/b").values()) == 2
        assert storage.smoothing_hints()["scope/b"] is False


def test_to_other_threads_it_is_the_storage_below():
    seen = {}

    def log():
        storage = get_event_storage()
        storage.put_scalar("loss", 3.0)
        with storage.name_scope("scope"):
            storage.put_scalar("loss", 4.0)
        seen["latest"], seen["iter"] = dict(storage.latest()), storage.iter

    with EventStorage(2) as storage, QuietStorage() as quiet:
        quiet.put_scalar("mine", 1.0)
        in_another_thread(log)
        assert storage.latest() == {"loss": (3.0, 2), "scope/loss": (4.0, 2)} == seen["latest"]
        assert seen["iter"] == 2 and quiet.latest() == {"mine": (1.0, 2)}
