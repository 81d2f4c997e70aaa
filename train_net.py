#!/usr/bin/env python
"""
Train and evaluate detectors with OHEM. ::

    python train_net.py --config-file configs/COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml
    python train_net.py --config-file COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml \\
        MODEL.ROI_HEADS.NAME OHEMROIHeads
    python train_net.py --config-file FILE --train-data coco:train.json:images/ \\
        --test-data coco:test.json:images/ OUTPUT_DIR output/mine
    python train_net.py --config-file FILE --import my_heads

The configuration file may also be the name of one in Detectron2's model zoo.
"""

import argparse
import logging

from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser, default_setup
from detectron2.evaluation import verify_results
from detectron2.utils import comm

from ohem_d2.data.datasets import FORMS, register_datasets
from ohem_d2.tools.errors import InputError
from ohem_d2.tools.load_model import add_import_argument, default_cfg, find_config_file
from ohem_d2.training.checkpoint import Checkpointer
from ohem_d2.training.folder import add_overwrite_argument, claim
from ohem_d2.training.launching import launch
from ohem_d2.training.trainer import OHEMTrainer
from ohem_d2.trust import UntrustedFile, add_trust_argument, merge_file, trusting


def setup(args: argparse.Namespace) -> CfgNode:
    """The frozen configuration; also registers data sets and sets up logging."""
    try:
        cfg = default_cfg(args.modules)
    except InputError as e:
        raise SystemExit(e) from e
    if args.config_file:
        try:
            args.config_file = find_config_file(args.config_file)
        except FileNotFoundError as e:
            raise SystemExit(f"--config-file {e}") from None
        merge_file(cfg, args.config_file)
    cfg.merge_from_list(args.opts)
    if args.train_data or args.test_data:  # the config's own data would not go with it
        cfg.DATASETS.TRAIN = tuple(args.train_data or ())
        cfg.DATASETS.TEST = tuple(args.test_data or ())
    classes = register_datasets((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST), args.classes)
    if classes:
        cfg.MODEL.ROI_HEADS.NUM_CLASSES = len(classes)
    if cfg.SOLVER.ACCUMULATION_STEPS == 1:
        # What is saved can then be read by scripts that do not know the key.
        del cfg.SOLVER["ACCUMULATION_STEPS"]
    cfg.freeze()
    if not args.eval_only:
        claim(cfg.OUTPUT_DIR, resume=args.resume, overwrite=args.overwrite)
    default_setup(cfg, args)
    if classes:
        logger = logging.getLogger("detectron2.ohem_d2")
        logger.info(f"NUM_CLASSES is {len(classes)}, as in the data: {', '.join(classes)}")
    return cfg


def main(args: argparse.Namespace) -> dict:
    cfg = setup(args)
    if args.eval_only:
        model = OHEMTrainer.build_model(cfg)
        checkpointer = Checkpointer(model, save_dir=cfg.OUTPUT_DIR)
        checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
        results = OHEMTrainer.test(cfg, model)
        if comm.is_main_process():
            verify_results(cfg, results)
        return results
    trainer = OHEMTrainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


def run(args: argparse.Namespace) -> dict:
    """Of each process."""
    try:
        with trusting(args.trust):
            return main(args)
    except UntrustedFile as e:
        raise SystemExit(str(e)) from e


if __name__ == "__main__":
    parser = default_argument_parser()
    for flag in ("--train-data", "--test-data"):
        parser.add_argument(
            flag,
            action="append",
            metavar="DATA",
            help=f"{FORMS}, or a registered name; may be repeated",
        )
    parser.add_argument(
        "--classes",
        nargs="+",
        default=(),
        metavar="NAME",
        help="of VOC data that may not have all of them, such as a test set alone",
    )
    add_import_argument(parser)
    add_trust_argument(parser)
    add_overwrite_argument(parser)
    arguments = parser.parse_args()
    launch(
        run,
        arguments.num_gpus,
        num_machines=arguments.num_machines,
        machine_rank=arguments.machine_rank,
        dist_url=arguments.dist_url,
        args=(arguments,),
    )
