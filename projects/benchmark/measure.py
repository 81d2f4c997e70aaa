"""Time, peak memory and the parts of a step; the same on a CPU and on a GPU."""

import functools
import os
import platform
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

# The profiler reports its own starts and stops on the terminal unless it is told not to.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

Step = Callable[[], None]


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def interleaved(
    steps: dict[str, Step], rounds: int, device: str, reset: Step
) -> dict[str, list[float]]:
    """
    Seconds of each step, round by round, after one round of warm-up. A round runs every step once,
    in random order, so that a slow machine slows all steps alike. ``reset`` before each is untimed.
    """
    order, times = random.Random(0), {name: [] for name in steps}
    for i in range(rounds + 1):
        for name in order.sample(list(steps), len(steps)):
            reset()
            synchronize(device)
            start = time.perf_counter()
            steps[name]()
            synchronize(device)
            times[name] += [time.perf_counter() - start] * (i > 0)
    return times


def ratio(numerator: list[float], denominator: list[float]) -> tuple[float, float]:
    """Median of the rounds' ratios, and half their interquartile range."""
    ratios = [a / b for a, b in zip(numerator, denominator)]
    if len(ratios) < 2:
        return ratios[0], 0.0
    low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return statistics.median(ratios), (high - low) / 2


def in_words(numerator: list[float], denominator: list[float]) -> str:
    return "{:.2f} ± {:.2f}".format(*ratio(numerator, denominator))


def profiled(step: Step, device: str, **how: bool) -> profile:
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device == "cuda")
    synchronize(device)
    with profile(activities=activities, **how) as profiler:
        step()
        synchronize(device)
    return profiler


def peak_bytes(step: Step, device: str) -> int:
    """
    Peak bytes of tensors during a step, beyond those before it: from the allocator on CUDA, from
    the allocations and releases that the profiler sees on a CPU.
    """
    if device == "cuda":
        synchronize(device)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        synchronize(device)
        return torch.cuda.max_memory_allocated() - before
    events = profiled(step, device, profile_memory=True).profiler.kineto_results.events()
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def parts(step: Step, modules: dict[str, torch.nn.Module], device: str) -> dict[str, float]:
    """
    Seconds by part: the ranges that the package marks, ``ohem/...``, and the forwards of modules
    under their names, those without gradients (scoring) apart from the others.
    """
    ranges, handles = [], []

    def enter(name: str, *_) -> None:
        kind = "training" if torch.is_grad_enabled() else "scoring"
        ranges.append(record_function(f"forward/{kind}/{name}"))
        ranges[-1].__enter__()

    def leave(*_) -> None:
        ranges.pop().__exit__(None, None, None)

    for name, module in modules.items():
        handles.append(module.register_forward_pre_hook(functools.partial(enter, name)))
        handles.append(module.register_forward_hook(leave))
    try:
        profiler = profiled(step, device)
    finally:
        for handle in handles:
            handle.remove()
    found = Counter()
    for event in profiler.key_averages():
        # A GPU's own record of a range repeats the host's.
        host = event.device_type == DeviceType.CPU
        if host and event.key.startswith(("ohem/", "forward/", "step/")):
            time_of = event.device_time_total if device == "cuda" else event.cpu_time_total
            found[event.key] += time_of / 1e6
    return dict(found)


def machine(device: str) -> str:
    """Where it was measured: processor or GPU, threads, PyTorch."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = torch.cuda.get_device_name() if device == "cuda" else [*names, platform.machine()][0]
    return f"{name}, {torch.get_num_threads()} CPU threads, torch {torch.__version__}"
