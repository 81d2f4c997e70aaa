import threading

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
            get_event_storage().put_scalars(b=2.0, cur_iter=9)
        assert get_event_storage() is storage and storage.latest() == {}
        quiet.pass_on(but=("b",))
        assert storage.latest() == {"a": (1.0, 7)}
        quiet.pass_on()
        assert storage.latest()["b"] == (2.0, 9)


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
