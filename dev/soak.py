"""
Does memory grow while OHEM trains? Trains for long on photographs, with OHEM and with Detectron2's
own heads, and prints how much more memory each run has after every hundred iterations. ::

    make soak                                              2,000 iterations of each run
    PYTHONPATH=. python dev/soak.py --iterations 40 --options both --heads OHEMROIHeads
"""

import argparse
import contextlib
import ctypes
import gc
import multiprocessing
import statistics
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

from detectron2.engine import HookBase
from detectron2.utils.env import seed_all_rng

from ohem_d2.tools.data.datasets import register_datasets
from ohem_d2.tools.load_model import default_cfg
from ohem_d2.tools.training.trainer import OHEMTrainer
from projects.tree_crowns import prepare_data

ROOT = Path(__file__).resolve().parents[1]
EVERY = 20  # iterations from one sample to the next

SMALL = [
    *("MODEL.ROI_HEADS.NUM_CLASSES", 1, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 32),
    *("MODEL.FPN.OUT_CHANNELS", 16, "MODEL.ROI_BOX_HEAD.FC_DIM", 32),
    *("MODEL.RPN.POST_NMS_TOPK_TRAIN", 200, "INPUT.MIN_SIZE_TRAIN", (128,)),
    *("SOLVER.IMS_PER_BATCH", 1, "SOLVER.BASE_LR", 0.0005, "SOLVER.STEPS", ()),
]
PICTURES, CHECKPOINTS = ("VIS_PERIOD", 25), ("SOLVER.CHECKPOINT_PERIOD", 50)
OPTIONS = {
    "neither": (),
    "pictures": PICTURES,
    "checkpoints": CHECKPOINTS,
    "both": (*PICTURES, *CHECKPOINTS),
}


class Sample(NamedTuple):
    """Of the memory of this process."""

    iteration: int
    resident: float  # MB that the system counts as its own, without files
    allocated: float  # MB of them that C and C++ use: tensors above all
    objects: int  # of Python


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--iterations", type=int, default=2000)
    parser.add_argument("--options", nargs="+", choices=OPTIONS, default=list(OPTIONS))
    heads = ["OHEMROIHeads", "StandardROIHeads"]
    parser.add_argument("--heads", nargs="+", choices=heads, default=heads)
    args = parser.parse_args()
    if args.iterations < 2 * EVERY:
        parser.error(f"--iterations: at least {2 * EVERY}, or there is nothing to compare")
    if not hasattr(ctypes.CDLL(None), "mallinfo2"):
        raise SystemExit("The memory of a process is read as Linux with glibc 2.33 or newer has it")
    prepare_data.prepare(prepare_data.DATA)
    print("| heads | options | MB at the end | per 100 iterations: MB | in use by C | objects |")
    print("|---|---|---|---|---|---|")
    for options in args.options:
        for name in args.heads:
            # each in a process of its own, as new as a user's
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                samples = process.submit(train, name, options, args.iterations).result()
            growth = [slope(samples, what) for what in Sample._fields[1:]]
            numbers = "| {:.2f} | {:.2f} | {:.0f} |".format(*growth)
            print(f"| {name} | {options} | {samples[-1].resident:.0f} {numbers}", flush=True)


def train(heads: str, options: str, iterations: int) -> list[Sample]:
    cfg = default_cfg()
    cfg.merge_from_file(str(ROOT / "configs/quick_schedules/faster_rcnn_R_50_FPN_cpu.yaml"))
    data = prepare_data.DATA
    cfg.DATASETS.TRAIN = (f"coco:{data / 'train.json'}:{data / 'tiles'}",)
    cfg.DATASETS.TEST = ()
    cfg.merge_from_list([*SMALL, "MODEL.ROI_HEADS.NAME", heads, *OPTIONS[options]])
    cfg.SOLVER.MAX_ITER = iterations
    register_datasets(cfg.DATASETS.TRAIN)
    seed_all_rng(1)
    watch = Memory()
    # what Detectron2 prints is no part of the table
    with (
        tempfile.TemporaryDirectory() as cfg.OUTPUT_DIR,
        contextlib.redirect_stdout(sys.stderr),
    ):
        trainer = OHEMTrainer(cfg)
        trainer.register_hooks([watch])
        trainer.train()
    return watch.samples


class Memory(HookBase):
    """Takes the samples, and deletes checkpoints, which would fill the disk."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []

    def after_step(self) -> None:
        if (self.trainer.iter + 1) % EVERY == 0:
            self.samples.append(sample(self.trainer.iter + 1))
            for path in Path(self.trainer.cfg.OUTPUT_DIR).glob("model_*.pth"):
                path.unlink()


class Mallinfo(ctypes.Structure):
    _fields_ = [(f"field{i}", ctypes.c_size_t) for i in range(10)]


def sample(iteration: int) -> Sample:
    gc.collect()
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = Mallinfo
    info = mallinfo()
    return Sample(
        iteration,
        int(status["RssAnon"].split()[0]) / 1024,
        (info.field4 + info.field7) / 2**20,  # in mappings of their own, and elsewhere
        sys.getallocatedblocks(),
    )


def slope(samples: list[Sample], what: str) -> float:
    """Growth in 100 iterations, by a line through the samples after the first quarter."""
    samples = samples[len(samples) // 4 :]
    values = [getattr(sample, what) for sample in samples]
    return 100 * statistics.linear_regression([s.iteration for s in samples], values).slope


if __name__ == "__main__":
    main()
