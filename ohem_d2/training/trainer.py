"""What Detectron2's DefaultTrainer leaves to be filled in."""

import logging
import os
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import DefaultTrainer, HookBase
from detectron2.engine.hooks import EvalHook
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator, PascalVOCDetectionEvaluator
from detectron2.utils import comm

from ..data.crowds import CrowdDatasetMapper
from ..monitor.scalars import LOGGER_NAME
from . import folder
from .accumulation import accumulating
from .batches import ResumableLoader
from .checkpoint import Checkpointer
from .hooks import AsIfNeverInterrupted, EndOnSigterm
from .launching import SIGTERM_STATUS


class OHEMTrainer(DefaultTrainer):
    """
    Keeps crowd regions for the miner, accumulates gradients over ``SOLVER.ACCUMULATION_STEPS``
    batches, evaluates as the data set's metadata say, and can be interrupted, as docs/safety.md
    has it.
    """

    def __init__(self, cfg: Any):
        super().__init__(cfg)
        self._trainer = accumulating(self._trainer, cfg.SOLVER.get("ACCUMULATION_STEPS", 1))

    @property
    def last_results(self) -> dict:
        """Of the last evaluation, by task and metric, as ``test`` returns them."""
        return self._last_eval_results

    @classmethod
    def build_train_loader(cls, cfg: Any) -> ResumableLoader:
        return ResumableLoader(cfg, CrowdDatasetMapper(cfg, is_train=True))

    def build_hooks(self) -> list[HookBase]:
        # In the place of Detectron2's, before its hooks take that
        parts = self.checkpointer.checkpointables
        self.checkpointer = Checkpointer(self.model, self.cfg.OUTPUT_DIR, **parts)
        hooks = super().build_hooks()
        # After all that a checkpoint needs, and before what takes long
        place = next(i for i, hook in enumerate(hooks) if isinstance(hook, EvalHook))
        hooks.insert(place, EndOnSigterm())
        return [AsIfNeverInterrupted(self.cfg), *hooks]

    def resume_or_load(self, resume: bool = True) -> None:
        """See the parent. Takes the folder as :func:`ohem_d2.training.folder.claim` does."""
        folder.claim(self.cfg.OUTPUT_DIR, resume=resume)
        super().resume_or_load(resume)

    def train(self) -> Any:
        try:
            return super().train()
        except SystemExit as e:
            if e.code == SIGTERM_STATUS:
                comm.synchronize()  # The end of one process ends the others, who may still write.
            raise
        finally:
            folder.release(self.cfg.OUTPUT_DIR)

    @classmethod
    def build_evaluator(cls, cfg: Any, dataset_name: str) -> DatasetEvaluator:
        evaluator_type = MetadataCatalog.get(dataset_name).get("evaluator_type", "coco")
        if evaluator_type == "pascal_voc":
            _warn_of_absent_classes(dataset_name)
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


def _warn_of_absent_classes(dataset_name: str) -> None:
    """Detectron2's Pascal VOC evaluation has no average precision of a class without objects."""
    names = MetadataCatalog.get(dataset_name).thing_classes
    present = {a["category_id"] for r in DatasetCatalog.get(dataset_name) for a in r["annotations"]}
    if absent := [name for i, name in enumerate(names) if i not in present]:
        logging.getLogger(LOGGER_NAME).warning(
            f"{dataset_name} has no object of class {', '.join(absent)}: its AP, and the mean over "
            "all classes, may be nan"
        )
