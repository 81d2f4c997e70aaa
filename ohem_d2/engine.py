"""What Detectron2's DefaultTrainer leaves to be filled in."""

import logging
import os
from typing import Any

from detectron2.data import MetadataCatalog, build_detection_train_loader
from detectron2.engine import DefaultTrainer
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator, PascalVOCDetectionEvaluator

from .events import LOGGER_NAME
from .ignore_regions import CrowdDatasetMapper


class OHEMTrainer(DefaultTrainer):
    """Keeps crowd regions for the miner, and evaluates as the data set's metadata say."""

    @property
    def last_results(self) -> dict:
        """Of the last evaluation, by task and metric, as ``test`` returns them."""
        return self._last_eval_results

    @classmethod
    def build_train_loader(cls, cfg: Any) -> Any:
        return build_detection_train_loader(cfg, mapper=CrowdDatasetMapper(cfg, is_train=True))

    @classmethod
    def build_evaluator(cls, cfg: Any, dataset_name: str) -> DatasetEvaluator:
        evaluator_type = MetadataCatalog.get(dataset_name).get("evaluator_type", "coco")
        if evaluator_type == "pascal_voc":
            return PascalVOCDetectionEvaluator(dataset_name)
        if evaluator_type == "coco":
            folder = os.path.join(cfg.OUTPUT_DIR, "inference")
            return COCOEvaluator(dataset_name, output_dir=folder)
        message = (
            f"No evaluator for {dataset_name}, whose evaluator_type is {evaluator_type!r}; "
            "override OHEMTrainer.build_evaluator"
        )
        # DefaultTrainer goes on without an evaluation and keeps the reason to itself.
        logging.getLogger(LOGGER_NAME).warning(message)
        raise NotImplementedError(message)
