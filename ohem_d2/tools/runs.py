"""
Runs of a comparison. Each is a process of its own, with the folder ``OUTPUT/VARIANT/seedN``. It
contains ``settings``, a fingerprint; ``output.txt``; and, when it is finished, ``result.json``.

The same command again continues runs that were killed. A folder with other settings is neither
taken for a result nor overwritten: the run fails until the folder is removed. All variants of a
seed come before the next seed, so that a machine that slows down slows all variants alike.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Container, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from subprocess import PIPE, STDOUT, Popen
from typing import Any

import numpy as np
from tqdm import tqdm

from .files import write_atomically

# After this many failures in a row a device gets no more runs, because it may be broken.
MAX_FAILURES = 2
# glibc then keeps memory instead of giving it back after each tensor, which costs time on a CPU.
ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"}


@dataclasses.dataclass(frozen=True)
class Variant:
    """One of the things to be compared."""

    name: str  #: the name of its folder
    settings: str  #: fingerprint of all that results depend on, except seed and device
    command: Callable[[int, str, Path], Sequence[str]]  #: for seed, device and folder
    iterations: int = 0  #: per run, for the progress bar


def fingerprint(*parts: str | Path) -> str:
    """16 hexadecimal digits for texts, and for paths the contents of the files."""
    digest = hashlib.sha256()
    for part in parts:
        content = part.read_bytes() if isinstance(part, Path) else part.encode()
        # with its length, so that moving text between parts changes the digest
        digest.update(b"%d:%b" % (len(content), content))
    return digest.hexdigest()[:16]


def folder_of(variant: Variant, seed: int, output: Path) -> Path:
    """The folder of a run."""
    return output / variant.name / f"seed{seed}"


def run_all(
    variants: Sequence[Variant],
    seeds: Iterable[int],
    output: Path,
    devices: Sequence[str],
    threads: int | None = None,
    without: Container[tuple[str, int]] = (),
) -> list[Path]:
    """
    Do the missing runs, one at a time on each device, or two on a device that is named twice.
    ``threads`` is per process. ``without`` has pairs (name of variant, seed) to leave out. Returns
    where to look for each run that failed: its ``output.txt``, or its folder if that has other
    settings. All other runs are finished, unless no device was left for them.
    """
    everything = [(variant, seed) for seed in seeds for variant in variants]
    todo = deque((v, seed) for v, seed in everything if (v.name, seed) not in without)
    environment = ALLOCATOR | os.environ
    environment |= {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    progress, failed, processes = _Progress(todo, output), [], []

    def start(variant: Variant, seed: int, device: str, folder: Path) -> int:
        write_atomically(folder / "settings", variant.settings)
        progress.begins(variant, seed, device, folder)
        command = variant.command(seed, device, folder)
        with open(folder / "output.txt", "a") as log:  # for the standard input see end_with_parent
            process = Popen(command, stdin=PIPE, stdout=log, stderr=STDOUT, env=environment)
        processes.append(process)
        return process.wait()

    def work(device: str) -> None:
        failures = 0
        while failures < MAX_FAILURES:
            try:
                variant, seed = todo.popleft()
            except IndexError:
                return
            folder = folder_of(variant, seed, output)
            finished, before = (folder / "result.json").exists(), _settings_in(folder)
            if before != variant.settings and (finished or before is not None):
                print(f"{folder} is of other settings; remove or rename it", file=sys.stderr)
                failed.append(folder)
            elif not finished:
                status = start(variant, seed, device, folder)
                failures = failures + 1 if status else 0
                if status:
                    failed.append(folder / "output.txt")

    with ThreadPoolExecutor(len(devices)) as pool, progress.bar:
        try:
            workers = [pool.submit(work, device) for device in devices]
            progress.until_done(workers)
            for worker in workers:
                worker.result()
        except BaseException:  # above all an interrupt
            todo.clear()
            for process in processes:
                process.terminate()
            raise
    return failed


class _Progress:
    """One line for all runs: a bar in a terminal, else a line for each run that begins."""

    def __init__(self, todo: Iterable[tuple[Variant, int]], output: Path):
        self._folders = {folder_of(v, seed, output): v.iterations for v, seed in todo}
        self._running: list[Path] = []
        self.bar = tqdm(total=sum(self._folders.values()), unit="it", disable=None)
        self.bar.update(sum(map(self._done, self._folders)))

    def begins(self, variant: Variant, seed: int, device: str, folder: Path) -> None:
        """Say that a run begins."""
        self._running.append(folder)
        num = f"run {len(self._running)} of {len(self._folders)}"
        if self.bar.disable:
            print(f"{num}: {variant.name}, seed {seed}, {device}", flush=True)
        self.bar.set_description(num)

    def until_done(self, workers: Sequence[Future]) -> None:
        """Wait, and move the bar."""
        while not all(worker.done() for worker in workers):
            time.sleep(0.5)
            if not self.bar.disable:
                self.bar.update(sum(map(self._done, self._folders)) - self.bar.n)

    def _done(self, folder: Path) -> int:
        if (folder / "result.json").exists():
            return self._folders[folder]
        last = read_metrics(folder)[-1:]
        return last[0].get("iteration", 0) if last else 0


def results_of(variant: Variant, seeds: Iterable[int], output: Path) -> dict[int, dict]:
    """The results of finished runs by seed. Prints a note if their settings differ."""
    folders = {seed: folder_of(variant, seed, output) for seed in seeds}
    folders = {seed: f for seed, f in folders.items() if (f / "result.json").exists()}
    if len(set(map(_settings_in, folders.values()))) > 1:
        print(f"{variant.name}: the runs of its seeds had different settings", file=sys.stderr)
    return {seed: json.loads((f / "result.json").read_text()) for seed, f in folders.items()}


def _settings_in(folder: Path) -> str | None:
    file = folder / "settings"
    return file.read_text() if file.exists() else None


def end_with_parent() -> None:
    """Make this process end when the one that started it ends, even by a kill."""

    def wait() -> None:
        os.read(sys.stdin.fileno(), 1)  # until the other end of the standard input is closed
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def write_result(folder: str | Path, result: dict[str, Any]) -> None:
    """Finish the run with a result, which must be valid JSON."""
    write_atomically(Path(folder) / "result.json", json.dumps(result))


def read_metrics(folder: str | Path) -> list[dict]:
    """Read Detectron2's ``metrics.json``, without lines that a kill has cut short."""
    file, records = Path(folder) / "metrics.json", []
    for line in file.read_text(errors="replace").splitlines() if file.exists() else ():
        with contextlib.suppress(ValueError, RecursionError):
            record = json.loads(line)
            records += [record] if isinstance(record, dict) else []
    return records


def seconds_per_iteration(records: Iterable[dict]) -> float:
    """The median of Detectron2's ``time``: from step to step, without evaluation."""
    return statistics.median([r["time"] for r in records if "time" in r] or [float("nan")])


def mean_and_spread(values: Sequence[float], digits: int) -> str:
    """Mean ± standard deviation; only the mean for one value, "" for none."""
    if not values:
        return ""
    mean = f"{np.mean(values):.{digits}f}"
    return f"{mean} ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else mean


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of the table."""
    first, *others = ("| " + " | ".join(cells) + " |" for cells in (header, *rows))
    return [first, "|" + "---|" * len(header), *others]
