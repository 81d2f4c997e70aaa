#!/usr/bin/env python
"""
One experiment of the paper. ::

    export PYTHONPATH=.
    python projects/paper/train.py --config-file projects/paper/configs/voc07/13_ohem_vgg16_n2.yaml

Data sets may be named by where they lie, as in ``train_net.py`` of the project's root.
"""

import argparse

from detectron2.engine import default_argument_parser, default_setup

from ohem_d2.tools.check import check_output
from ohem_d2.tools.cli import add_shared_arguments
from ohem_d2.tools.errors import errors_in_one_line, input_errors
from ohem_d2.tools.runs import end_with_parent, write_result
from ohem_d2.tools.training.checkpoints import Checkpointer
from ohem_d2.tools.training.processes import launch
from ohem_d2.tools.training.run_folder import claim
from ohem_d2.tools.trust import trusting
from projects.paper.ohem_paper.experiment import TRAINERS, PaperTrainer, check_files, load_config
from projects.paper.ohem_paper.rows import result_of


def main(args: argparse.Namespace) -> dict:
    if args.result:
        end_with_parent()
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
        write_result(cfg.OUTPUT_DIR, result_of(trainer))
    return results


def run(args: argparse.Namespace) -> dict:
    """What each process does."""
    with trusting(args.trust):
        return main(args)


if __name__ == "__main__":
    parser = default_argument_parser()
    parser.add_argument("--result", action="store_true", help="one of the runs of run_table.py")
    add_shared_arguments(parser, "--trust", "--overwrite")
    a = parser.parse_args()
    with errors_in_one_line("train.py"):
        launch(run, a.num_gpus, a.num_machines, a.machine_rank, a.dist_url, args=(a,))
