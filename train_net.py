#!/usr/bin/env python
"""
Train and evaluate detectors with OHEM. ::

    python train_net.py --config-file configs/COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml
    python train_net.py --config-file COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml \\
        MODEL.ROI_HEADS.NAME OHEMROIHeads
    python train_net.py --config-file FILE --train-data coco:train.json:images/ \\
        --test-data coco:test.json:images/ OUTPUT_DIR output/mine
    python train_net.py --config-file FILE --import my_heads
    python train_net.py --config-file FILE --train-data ... --check

The configuration file may also be the name of one in Detectron2's model zoo.
"""

import argparse
import logging

from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser, default_setup
from detectron2.evaluation import verify_results
from detectron2.utils import comm

from ohem_d2.tools.check import check_data, check_output, check_whole
from ohem_d2.tools.cli import add_shared_arguments
from ohem_d2.tools.data.datasets import FORMS, name_of_negatives, register_datasets
from ohem_d2.tools.errors import errors_in_one_line, input_errors
from ohem_d2.tools.keys import check_config, config_notes
from ohem_d2.tools.load_model import default_cfg, find_config_file, merge, set_num_classes
from ohem_d2.tools.training.checkpoints import load_to_evaluate, weights_of
from ohem_d2.tools.training.processes import launch
from ohem_d2.tools.training.run_folder import claim
from ohem_d2.tools.training.trainer import OHEMTrainer
from ohem_d2.tools.trust import trusting


def configuration(args: argparse.Namespace) -> CfgNode:
    """The configuration that the command line asks for."""
    cfg = merge(default_cfg(args.modules), args.config_file, args.opts)
    if args.config_file:  # the log has what is in it
        args.config_file = find_config_file(args.config_file)
    if args.train_data or args.test_data:  # the config's own data would not go with it
        cfg.DATASETS.TRAIN = tuple(args.train_data or ())
        cfg.DATASETS.TEST = tuple(args.test_data or ())
    if args.negatives:
        cfg.DATASETS.TRAIN = (*cfg.DATASETS.TRAIN, *map(name_of_negatives, args.negatives))
        cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    return cfg


def setup(args: argparse.Namespace) -> CfgNode:
    """The frozen configuration, checked; also registers data sets and sets up logging."""
    cfg, training = configuration(args), not args.eval_only
    check_config(cfg, training)
    classes = register_datasets((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST), args.classes)
    if classes:
        set_num_classes(cfg, len(classes))
    cfg.freeze()
    notes = [*config_notes(cfg, training), *check_data(cfg, training)]
    check_output(cfg.OUTPUT_DIR)
    if training:
        claim(cfg.OUTPUT_DIR, resume=args.resume, overwrite=args.overwrite)
    with input_errors("OUTPUT_DIR"):
        default_setup(cfg, args)
    logger = logging.getLogger("ohem_d2.train_net")
    for note in notes:
        logger.warning(note)
    if classes:
        logger.info(f"NUM_CLASSES is {len(classes)}, as in the data: {', '.join(classes)}")
    return cfg


def main(args: argparse.Namespace) -> dict:
    """Train or evaluate, in each process."""
    cfg = setup(args)
    if args.eval_only:
        with input_errors("The model cannot be built"):
            model = OHEMTrainer.build_model(cfg)
        load_to_evaluate(cfg, model, args.resume)
        results = OHEMTrainer.test(cfg, model)
        if comm.is_main_process():
            verify_results(cfg, results)
        return results
    with input_errors("The training cannot be set up"):
        trainer = OHEMTrainer(cfg)
    with input_errors(f"{weights_of(cfg, args.resume)} cannot be loaded"):
        trainer.resume_or_load(resume=args.resume)
    return trainer.train()


def check(args: argparse.Namespace) -> None:
    """Only look for what would stop a run."""
    run = {"resume": args.resume, "overwrite": args.overwrite}
    check_whole(configuration(args), args.classes, training=not args.eval_only, **run)


def run(args: argparse.Namespace) -> None:
    """Do what is asked for, in each process."""
    with trusting(args.trust):
        (check if args.check else main)(args)


if __name__ == "__main__":
    parser = default_argument_parser()
    for flag, what in (
        ("--train-data", f"{FORMS}, or a registered name; may be repeated"),
        ("--test-data", "in the same forms"),
        ("--negatives", f"images to train on without objects: their folder, or {FORMS}"),
    ):
        parser.add_argument(flag, action="append", metavar="DATA", help=what)
    add_shared_arguments(parser, "--classes", "--import", "--trust", "--overwrite")
    whole = "check the configuration, all annotations and all images, and do nothing else"
    parser.add_argument("--check", action="store_true", help=whole)
    given = parser.parse_args()
    machines = given.num_machines, given.machine_rank, given.dist_url
    with errors_in_one_line("train_net.py"):
        launch(run, 0 if given.check else given.num_gpus, *machines, args=(given,))
