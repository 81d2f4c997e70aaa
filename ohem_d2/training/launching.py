"""Processes of a run, which end together."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from detectron2 import engine
from torch.multiprocessing import ProcessExitedException

SIGTERM_STATUS = 128 + signal.SIGTERM  # as shells have it of a process that SIGTERM has ended


def launch(
    main: Callable[..., Any],
    num_gpus_per_machine: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str | None = None,
    args: tuple = (),
) -> None:
    """
    Detectron2's ``launch``, with the same arguments. If it starts processes, these get the SIGTERM
    that comes here, and none is left when this one ends, by a kill or an interrupt too.

    Raises:
        SystemExit: with the status of the first process that ended with one, which has said why.
    """
    machines = {"num_machines": num_machines, "machine_rank": machine_rank, "dist_url": dist_url}
    if num_machines * num_gpus_per_machine <= 1:
        return engine.launch(main, num_gpus_per_machine, args=args, **machines)
    children = multiprocessing.active_children
    on_sigterm(lambda *_: [child.terminate() for child in children()])
    try:
        engine.launch(
            _with_parent, num_gpus_per_machine, args=(os.getpid(), main, args), **machines
        )
    except ProcessExitedException as e:
        status = e.exit_code if e.exit_code > 0 else 128 - e.exit_code
        raise SystemExit(status) from None
    finally:
        for child in children():
            child.kill()


def on_sigterm(handler: Callable[..., Any]) -> bool:
    """
    Whether it is called from now on: a handler of somebody else's stays, and only the main thread
    can have one.
    """
    main_thread = threading.current_thread() is threading.main_thread()
    free = main_thread and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if free:
        signal.signal(signal.SIGTERM, handler)
    return free


def _with_parent(parent: int, main: Callable[..., Any], args: tuple) -> None:
    threading.Thread(target=_end_after, args=(parent,), daemon=True).start()
    main(*args)


def _end_after(parent: int) -> None:
    """Whatever the main thread waits for: another process, say, that has ended already."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
