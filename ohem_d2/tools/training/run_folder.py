"""The folder of a run, OUTPUT_DIR: one run at a time, and no new one over an old one."""

import argparse
import contextlib
import itertools
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from detectron2.utils import comm

logger = logging.getLogger(__name__)


try:
    import fcntl
except ImportError:  # Windows, where there is no lock
    fcntl = None

# What a run leaves that another one would go on with, and what goes aside together with it
RESULTS = ("last_checkpoint", "model_*.pth", "metrics.json")
ALL = (*RESULTS, "config.yaml", "events.out.tfevents.*", "inference", "log.txt*")
LOCK = ".lock"

_held: dict[Path, IO] = {}


def claim(folder: str | Path, *, resume: bool = False, overwrite: bool = False) -> None:
    """
    Take the folder for a run of this process, until :func:`release` or its end, by a kill too. In
    other processes of the run nothing is done. To be called before anything is written there.

    Args:
        resume: the run goes on with what is there.
        overwrite: a new run sets aside what an earlier one left, in ``earlier_1`` or so.

    Raises:
        SystemExit: in a line, if another run has the folder, a new one would mix with an old one,
            or the folder cannot be written to.
    """
    folder = Path(folder).absolute()
    if not comm.is_main_process() or folder in _held:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / LOCK, "a")  # noqa: SIM115  closed by release
    except OSError as e:
        raise SystemExit(f"OUTPUT_DIR {folder} cannot be written to: {e.strerror}") from e
    _lock(file, folder)
    left = [file.name for file in _files(folder, RESULTS) if file.stat().st_size]
    if left and not resume:
        if not overwrite:
            raise SystemExit(
                f"OUTPUT_DIR {folder} has a run already ({', '.join(left[:3])}). --resume goes on "
                "with it, --overwrite sets it aside and begins anew; or choose another OUTPUT_DIR"
            )
        numbered = (folder / f"earlier_{number}" for number in itertools.count(1))
        aside = next(path for path in numbered if not path.exists())
        aside.mkdir()
        for old in _files(folder, ALL):
            old.rename(aside / old.name)
    _held[folder] = file


@contextlib.contextmanager
def left_as_it_was(folder: str | Path) -> Iterator[None]:
    """What a claim makes within the context, folder and lock, is not there after it."""
    folder = Path(folder).absolute()
    lock, folders = folder / LOCK, [folder, *folder.parents]
    new = [path for path in (lock, *folders) if not os.path.lexists(path)]
    try:
        yield
    finally:
        for path in new:
            with contextlib.suppress(OSError, ValueError):  # it cannot be made, or another uses it
                path.unlink() if path == lock else path.rmdir()


def add_overwrite_argument(parser: argparse.ArgumentParser) -> None:
    """``--overwrite``, of a command that trains."""
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="begin anew in an OUTPUT_DIR that has a run, which is set aside in earlier_1 or so",
    )


def release(folder: str | Path) -> None:
    """The run is over. Nothing is done if the folder was not taken."""
    if file := _held.pop(Path(folder).absolute(), None):
        file.close()


def _files(folder: Path, names: tuple[str, ...]) -> list[Path]:
    return sorted(file for name in names for file in folder.glob(name))


def _lock(file: IO, folder: Path) -> None:
    """
    A lock of the process alone. One of another kind would also be its workers', which load the data
    and outlive a kill by some seconds.
    """
    try:
        if fcntl:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as e:
        raise SystemExit(
            f"OUTPUT_DIR {folder} is in use by another run; wait for its end, or choose another "
            "OUTPUT_DIR"
        ) from e
    except OSError as e:  # some file systems of a network have no locks
        logger.warning(f"OUTPUT_DIR {folder} cannot be locked: {e}")
