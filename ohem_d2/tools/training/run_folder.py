"""The folder of a run, OUTPUT_DIR: one run at a time, and no new one over an old one."""

import contextlib
import itertools
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from detectron2.utils import comm
from filelock import BaseFileLock, FileLock, Timeout

from ..errors import InputError

logger = logging.getLogger(__name__)

# Files that another run would continue from, and all files that are set aside with them
RESULTS = ("last_checkpoint", "model_*.pth", "metrics.json")
ALL = (*RESULTS, "config.yaml", "events.out.tfevents.*", "inference", "log.txt*")
LOCK = ".lock"

_claimed: dict[Path, BaseFileLock] = {}


def claim(folder: str | Path, *, resume: bool = False, overwrite: bool = False) -> None:
    """
    Take the folder for a run, in its main process, until :func:`release` or the process ends. If
    the folder has a run, ``resume`` continues it, and ``overwrite`` sets it aside. InputError if it
    has a run and neither is given, if another run uses it, or if it cannot be written to.
    """
    folder = Path(folder).absolute()
    if not comm.is_main_process() or folder in _claimed:
        return
    lock = _locked(folder)
    try:
        left = [file.name for file in _files(folder, RESULTS) if file.stat().st_size]
        if left and not resume and not overwrite:
            raise InputError(
                f"OUTPUT_DIR {folder} has a run already ({', '.join(left[:3])}). --resume goes on "
                "with it, --overwrite sets it aside and begins anew; or choose another OUTPUT_DIR"
            )
        if left and not resume:
            _set_aside(folder)
    except BaseException:
        lock.release()
        raise
    _claimed[folder] = lock


def release(folder: str | Path) -> None:
    """Give the folder back after the run. Does nothing if it was not taken."""
    if lock := _claimed.pop(Path(folder).absolute(), None):
        lock.release()


@contextlib.contextmanager
def left_as_it_was(folder: str | Path) -> Iterator[None]:
    """Remove the folder and the lock that a claim makes within the context."""
    folder = Path(folder).absolute()
    lock, folders = folder / LOCK, [folder, *folder.parents]
    new = [path for path in (lock, *folders) if not os.path.lexists(path)]
    try:
        yield
    finally:
        for path in new:
            with contextlib.suppress(OSError, ValueError):  # not made, or in use by another run
                path.unlink() if path == lock else path.rmdir()


def _locked(folder: Path) -> BaseFileLock:
    """A lock that ends with the process, or with forked workers that outlive it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        open(folder / LOCK, "a").close()
    except OSError as e:
        raise InputError(f"OUTPUT_DIR {folder} cannot be written to: {e.strerror}") from e
    lock = FileLock(folder / LOCK, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire(blocking=False)
    except Timeout as e:
        remedy = "wait for its end, or choose another OUTPUT_DIR"
        raise InputError(f"OUTPUT_DIR {folder} is in use by another run; {remedy}") from e
    except (NotImplementedError, OSError) as e:  # some network file systems have no locks
        logger.warning(f"OUTPUT_DIR {folder} cannot be locked: {e}")
    return lock


def _files(folder: Path, names: tuple[str, ...]) -> list[Path]:
    return sorted(file for name in names for file in folder.glob(name))


def _set_aside(folder: Path) -> None:
    numbered = (folder / f"earlier_{number}" for number in itertools.count(1))
    aside = next(path for path in numbered if not path.exists())
    aside.mkdir()
    for old in _files(folder, ALL):
        old.rename(aside / old.name)
