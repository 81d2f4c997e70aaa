"""
Runs of a comparison, each a process of its own, in the folder ``OUTPUT/VARIANT/seedN``, which has
``settings``, a fingerprint; ``output.txt``; and, once it is finished, ``result.json``.

The same command again goes on with what was killed. What was made with other settings is neither
taken for a result nor overwritten: that run fails until the folder is removed. All variants of a
seed come before the next seed, so that a machine that slows down slows all alike.
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

# A device on which so many runs fail in a row gets no more: it may be broken, and the others not.
MAX_FAILURES = 2


@dataclasses.dataclass(frozen=True)
class Variant:
    """One of the things to be compared."""

    name: str  #: of its folder
    settings: str  #: fingerprint of all that its results depend on but seed and device
    command: Callable[[int, str, Path], Sequence[str]]  #: of a run, by seed, device and folder
    iterations: int = 0  #: of a run, for the progress


def fingerprint(*parts: str | Path) -> str:
    """16 hexadecimal digits of texts and, of paths, what is in the files."""
    digest = hashlib.sha256()
    for part in parts:
        content = part.read_bytes() if isinstance(part, Path) else part.encode()
        # with its length, so that nothing moves unnoticed from one part to the next
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
    Do what is missing, one run at a time on each device; one that is named twice has two. Processes
    have so many ``threads``; ``without`` has names of variants, each with a seed, to leave out.
    Returns where to look for each run that failed: its ``output.txt``, or the folder that is of
    other settings. All others are finished, but for those that no device was left for.
    """
    everything = [(variant, seed) for seed in seeds for variant in variants]
    todo = deque((v, seed) for v, seed in everything if (v.name, seed) not in without)
    environment = os.environ | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)})
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
        except BaseException:  # an interrupt above all
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
    """The results of finished runs by seed, whatever their settings; says if these differ."""
    folders = {seed: folder_of(variant, seed, output) for seed in seeds}
    folders = {seed: f for seed, f in folders.items() if (f / "result.json").exists()}
    if len(set(map(_settings_in, folders.values()))) > 1:
        print(f"{variant.name}: the runs of its seeds had different settings", file=sys.stderr)
    return {seed: json.loads((f / "result.json").read_text()) for seed, f in folders.items()}


def _settings_in(folder: Path) -> str | None:
    file = folder / "settings"
    return file.read_text() if file.exists() else None


def end_with_parent() -> None:
    """Have this process end when the one that started it does, by a kill too."""

    def wait() -> None:
        os.read(sys.stdin.fileno(), 1)  # until the other end of the standard input is closed
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def write_result(folder: str | Path, result: dict[str, Any]) -> None:
    """Finish the run with a result such as JSON can have."""
    write_atomically(Path(folder) / "result.json", json.dumps(result))


def read_metrics(folder: str | Path) -> list[dict]:
    """Read Detectron2's ``metrics.json``, without a line that a kill has cut short."""
    file, records = Path(folder) / "metrics.json", []
    for line in file.read_text(errors="replace").splitlines() if file.exists() else ():
        with contextlib.suppress(ValueError, RecursionError):
            record = json.loads(line)
            records += [record] if isinstance(record, dict) else []
    return records


def seconds_per_iteration(records: Iterable[dict]) -> float:
    """The median of Detectron2's own measure: from step to step, without evaluation."""
    return statistics.median([r["time"] for r in records if "time" in r] or [float("nan")])


def mean_and_spread(values: Sequence[float], digits: int) -> str:
    """Mean ± standard deviation; of one value no deviation, of none nothing."""
    if not values:
        return ""
    mean = f"{np.mean(values):.{digits}f}"
    return f"{mean} ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else mean


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Its lines."""
    first, *others = ("| " + " | ".join(cells) + " |" for cells in (header, *rows))
    return [first, "|" + "---|" * len(header), *others]
