"""A training script of somebody else's, with a loop written out."""

import os

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.data import build_detection_test_loader, build_detection_train_loader
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import default_argument_parser, default_setup
from detectron2.evaluation import COCOEvaluator, inference_on_dataset, print_csv_format
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.utils.events import EventStorage, JSONWriter

for split in ("train", "test"):
    register_coco_instances(
        f"photos_{split}", {}, os.environ["PHOTOS_JSON"], os.environ["PHOTOS_FOLDER"]
    )


def main(args):
    cfg = get_cfg()
    cfg.merge_from_file(args.config_file)
    cfg.merge_from_list(args.opts)
    cfg.freeze()
    default_setup(cfg, args)
    model = build_model(cfg).train()
    optimizer = build_optimizer(cfg, model)
    scheduler = build_lr_scheduler(cfg, optimizer)
    checkpointer = DetectionCheckpointer(model, cfg.OUTPUT_DIR, optimizer=optimizer)
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
    writer = JSONWriter(os.path.join(cfg.OUTPUT_DIR, "metrics.json"))
    with EventStorage() as storage:
        for data, iteration in zip(build_detection_train_loader(cfg), range(cfg.SOLVER.MAX_ITER)):
            storage.iter = iteration
            losses = sum(model(data).values())
            assert torch.isfinite(losses)
            optimizer.zero_grad()
            losses.backward()
            optimizer.step()
            storage.put_scalar("total_loss", losses.item())
            scheduler.step()
            writer.write()
    checkpointer.save("model_final")
    loader = build_detection_test_loader(cfg, cfg.DATASETS.TEST[0])
    evaluator = COCOEvaluator(cfg.DATASETS.TEST[0], output_dir=cfg.OUTPUT_DIR)
    print_csv_format(inference_on_dataset(model, loader, evaluator))


if __name__ == "__main__":
    main(default_argument_parser().parse_args())
