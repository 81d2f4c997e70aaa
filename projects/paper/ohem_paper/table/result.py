"""What a run of a row leaves for the table."""

import resource
from collections.abc import Sequence
from typing import Any

import torch

from ohem_d2.tools.runs import read_metrics, seconds_per_iteration
from ohem_d2.training.trainer import OHEMTrainer


def result_of(trainer: OHEMTrainer) -> dict[str, Any]:
    """
    Of a trainer that has trained and tested; a test is a part even of a training that had been
    finished by a run that was killed then.
    """
    cfg = trainer.cfg
    boxes = trainer.last_results.get("bbox", {})  # nothing where the test's objects are not public
    records = read_metrics(cfg.OUTPUT_DIR)
    sweeps = logged(records, "bootstrap/sweep_seconds")
    return {
        "metrics": {key: boxes[key] for key in ("AP", "AP50", "AP75") if key in boxes},
        "seconds": seconds_per_iteration(records),
        # Of bootstrapping, spread over the iterations; their own timer rests meanwhile.
        "sweep_seconds": sum(sweeps.values()) / cfg.SOLVER.MAX_ITER,
        "peak_bytes": peak_memory(cfg.MODEL.DEVICE),
        "training_loss": logged(records, "training_loss/loss"),
    }


def peak_memory(device: str) -> int:
    """Of this process, in bytes: the GPU's where it runs on one, else the computer's."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def logged(records: Sequence[dict], name: str) -> dict[int, float]:
    """By iteration; of an iteration that a resumed run came by again, the last value."""
    return {record["iteration"]: record[name] for record in records if name in record}
