"""
Trainings that take no time, of a model that writes down what it sees, in real processes that can be
killed. These come from a server that has imported what they need.
"""

import contextlib
import functools
import json
import multiprocessing
import os
import time
from pathlib import Path

import forked
import numpy as np
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog
from detectron2.engine import defaults
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from detectron2.utils.logger import setup_logger
from PIL import Image
from processes import meet
from torch import nn

from ohem_d2.tools.training.processes import Terminated
from ohem_d2.tools.training.run_folder import claim
from ohem_d2.tools.training.trainer import OHEMTrainer

NUM_IMAGES = 30


def write_images(folder: Path) -> None:
    """Some are wide, the others high; some have a rare object."""
    rng = np.random.default_rng(0)
    for i in range(NUM_IMAGES):
        pixels = rng.integers(0, 256, (20, 32, 3) if i % 5 < 2 else (32, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")


def records(folder: Path) -> list[dict]:
    return [
        {
            "file_name": str(folder / f"{i}.png"),
            "image_id": i,
            **dict(zip(("height", "width"), (20, 32) if i % 5 < 2 else (32, 20))),
            "annotations": [{"bbox": [1, 1, 9, 9], "bbox_mode": 0, "category_id": int(i % 7 == 0)}],
        }
        for i in range(NUM_IMAGES)
    ]


def config(images: Path, output: Path, *overrides):
    """Flips, three sizes, half of the numbers dropped: much is random."""
    DatasetCatalog.pop("images", None)
    DatasetCatalog.register("images", lambda: records(images))
    cfg = get_cfg()
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS, cfg.OUTPUT_DIR = "cpu", "", str(output)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("images",), ()
    cfg.INPUT.MIN_SIZE_TRAIN = (16, 24, 32)
    cfg.DATALOADER.NUM_WORKERS, cfg.DATALOADER.REPEAT_THRESHOLD = 0, 0.5
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER, cfg.SOLVER.CHECKPOINT_PERIOD = 2, 30, 7
    cfg.DATALOADER.RANDOM_SUBSET_RATIO = 0.7  # which Detectron2 reads and does not have
    cfg.SEED = 3
    cfg.merge_from_list(list(overrides))
    return cfg


class Witness(nn.Module):
    """Writes down each batch: its images, their pixels, and a loss that depends on chance."""

    def __init__(self, file: Path, seconds: float, size: int):
        super().__init__()
        self.file, self.seconds = file, seconds
        self.layers = nn.Sequential(nn.Linear(3, 16), nn.Dropout(0.5), nn.Linear(16, 1))
        self.weights = nn.Parameter(torch.zeros(size), requires_grad=False)

    def forward(self, batch):
        colors = torch.stack([x["image"].float().mean(dim=(1, 2)) / 255 for x in batch])
        loss = self.layers(colors).square().mean()
        line = [get_event_storage().iter, [x["image_id"] for x in batch], colors.sum().item()]
        with open(self.file, "a") as file:
            print(json.dumps([*line, loss.item()]), file=file)
        time.sleep(self.seconds)
        return {"loss": loss}


class WitnessTrainer(OHEMTrainer):
    seconds, size = 0.01, 0  # of an iteration, and so many numbers to save

    @classmethod
    def build_model(cls, cfg):
        torch.manual_seed(0)
        file = Path(cfg.OUTPUT_DIR, f"seen_{comm.get_rank()}")
        return Witness(file, cls.seconds, cls.size)

    @classmethod
    def test(cls, cfg, model, evaluators=None):
        """An evaluation that writes down when it was."""
        with open(Path(cfg.OUTPUT_DIR, f"evaluated_{comm.get_rank()}"), "a") as file:
            print(get_event_storage().iter, file=file)
        return {"bbox": {"AP": 50.0}}


def train(images, output, overrides=(), resume=False, **settings):
    """Of one process, which prints to a file."""
    output.mkdir(parents=True, exist_ok=True)
    with open(output / f"printed_{comm.get_rank()}", "a") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    multiprocessing.set_start_method("fork", force=True)  # of the workers, which are many here
    torch.set_num_threads(1)
    for name, value in settings.items():
        setattr(WitnessTrainer, name, value)
    claim(output, resume=resume)
    setup_logger(str(output), distributed_rank=comm.get_rank())
    trainer = WitnessTrainer(config(images, output, *overrides))
    trainer.resume_or_load(resume)
    trainer.train()


def train_in_a_group(rank, meeting, *args, **kwargs):
    """Of one of two."""
    meet(rank, meeting)
    # Which asks for GPUs
    defaults.create_ddp_model = functools.partial(defaults.create_ddp_model, device_ids=None)
    status = 0
    try:
        train(*args, **kwargs)
    except Terminated as e:
        status = e.code
    os._exit(status)  # see processes.leave


def start(num, *args, **kwargs):
    """A training in so many processes, which are returned."""
    if num == 1:
        started = [forked.process(target=train, args=args, kwargs=kwargs)]
    else:
        meeting = args[1] / f"meeting_{time.monotonic()}"
        meeting.mkdir(parents=True)
        started = [
            forked.process(target=train_in_a_group, args=(rank, meeting, *args), kwargs=kwargs)
            for rank in range(num)
        ]
    for process in started:
        process.start()
    return started


def ended(started, seconds=60):
    """Their statuses."""
    for process in started:
        process.join(seconds)
    return [process.exitcode for process in started]


def wait_until(holds, started=(), seconds=60):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        assert all(process.is_alive() for process in started)
        time.sleep(0.002)


def kill(started):
    for process in started:
        process.kill()
    ended(started)


def seen(output, rank=0):
    """Of each iteration what was seen in it, the last time that it was done."""
    found = {}
    with contextlib.suppress(FileNotFoundError):
        for line in (output / f"seen_{rank}").read_text().splitlines():
            with contextlib.suppress(ValueError):
                iteration, *what = json.loads(line)
                found.setdefault(iteration, []).append(what)
    return found
