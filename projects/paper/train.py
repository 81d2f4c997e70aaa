#!/usr/bin/env python
"""
Run one experiment of the paper. ::

    export PYTHONPATH=.
    python projects/paper/train.py --config-file projects/paper/configs/voc07/13_ohem_vgg16_n2.yaml

Data sets may be named by their paths, as in ``train_net.py`` of the project's root.
"""

import argparse
import resource
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.engine import DefaultTrainer, default_argument_parser, default_setup

from ohem_d2.tools import runs
from ohem_d2.tools.check import check_output
from ohem_d2.tools.cli import add_shared_arguments
from ohem_d2.tools.errors import errors_in_one_line, input_errors
from ohem_d2.tools.training.checkpoints import Checkpointer
from ohem_d2.tools.training.processes import launch
from ohem_d2.tools.training.run_folder import claim
from ohem_d2.tools.trust import trusting
from projects.paper.ohem_paper.experiment import TRAINERS, PaperTrainer, check_files, load_config


def main(args: argparse.Namespace) -> dict:
    if args.result:
        runs.end_with_parent()
    cfg = load_config(args.config_file, args.opts)
    cfg.freeze()
    check_output(cfg.OUTPUT_DIR)
    if not args.eval_only:
        claim(cfg.OUTPUT_DIR, resume=args.resume, overwrite=args.overwrite)
    default_setup(cfg, args)
    check_files(cfg, training=not args.eval_only)
    if args.eval_only:
        model = PaperTrainer.build_model(cfg)
        checkpointer = Checkpointer(model, cfg.OUTPUT_DIR)
        checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
        return PaperTrainer.test(cfg, model)
    with input_errors("The training cannot be set up"):
        trainer = TRAINERS[cfg.SOLVER.TRAINER](cfg)
    trainer.resume_or_load(resume=args.resume)
    results = trainer.train()
    if args.result:
        runs.write_result(cfg.OUTPUT_DIR, result_of(trainer))
    return results


def result_of(trainer: DefaultTrainer) -> dict[str, Any]:
    """The result of a run for the table. Its trainer has trained and tested."""
    cfg = trainer.cfg
    boxes = trainer.last_results.get("bbox", {})  # empty if the test's objects are not public
    records = runs.read_metrics(cfg.OUTPUT_DIR)
    sweeps = logged(records, "bootstrap/sweep_seconds")
    return {
        "metrics": {key: boxes[key] for key in ("AP", "AP50", "AP75") if key in boxes},
        "seconds": runs.seconds_per_iteration(records),
        # Bootstrapping's sweeps, spread over the iterations, whose own timer leaves them out.
        "sweep_seconds": sum(sweeps.values()) / cfg.SOLVER.MAX_ITER,
        "peak_bytes": peak_memory(cfg.MODEL.DEVICE),
        "training_loss": logged(records, "training_loss/loss"),
    }


def peak_memory(device: str) -> int:
    """Peak memory of this process, in bytes; on a GPU, that of the GPU."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def logged(records: Sequence[dict], name: str) -> dict[int, float]:
    """Values by iteration; the last one if a resumed run repeated an iteration."""
    return {record["iteration"]: record[name] for record in records if name in record}


def run(args: argparse.Namespace) -> dict:
    """What each process does."""
    with trusting(args.trust):
        return main(args)


if __name__ == "__main__":
    parser = default_argument_parser()
    parser.add_argument("--result", action="store_true", help="for runs of run_table.py")
    add_shared_arguments(parser, "--trust", "--overwrite")
    a = parser.parse_args()
    with errors_in_one_line("train.py"):
        launch(run, a.num_gpus, a.num_machines, a.machine_rank, a.dist_url, args=(a,))
