#!/usr/bin/env python
"""
One experiment of the paper. ::

    python projects/paper/train.py --config-file projects/paper/configs/voc07/13_ohem_vgg16_n2.yaml

Data sets may be named by where they lie, as in ``train_net.py`` of the project's root.
"""

import argparse

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import default_argument_parser, default_setup, launch
from ohem_paper.experiment import TRAINERS, PaperTrainer, check_files, load_config
from ohem_paper.rows import result_of

from ohem_d2.tools.check import check_output
from ohem_d2.tools.errors import naming, told
from ohem_d2.tools.runs import end_with_parent, write_result


def main(args: argparse.Namespace) -> dict:
    if args.result:
        end_with_parent()
    with naming():
        cfg = load_config(args.config_file, args.opts)
        cfg.freeze()
        check_output(cfg.OUTPUT_DIR)
        default_setup(cfg, args)
        check_files(cfg)
    if args.eval_only:
        model = PaperTrainer.build_model(cfg)
        checkpointer = DetectionCheckpointer(model, cfg.OUTPUT_DIR)
        checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
        return PaperTrainer.test(cfg, model)
    with naming("The training cannot be set up", bugs=(TypeError, IndexError)):
        trainer = TRAINERS[cfg.SOLVER.TRAINER](cfg)
    trainer.resume_or_load(resume=args.resume)
    results = trainer.train()
    if args.result:
        write_result(cfg.OUTPUT_DIR, result_of(trainer))
    return results


if __name__ == "__main__":
    parser = default_argument_parser()
    parser.add_argument("--result", action="store_true", help="one of the runs of run_table.py")
    a = parser.parse_args()
    with told("train.py"):
        launch(main, a.num_gpus, a.num_machines, a.machine_rank, a.dist_url, args=(a,))
