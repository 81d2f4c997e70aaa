"""What Detectron2's DefaultTrainer leaves to be filled in."""

import logging
import os
from typing import Any

from detectron2.data import (
    DatasetCatalog,
    DatasetMapper,
    MetadataCatalog,
    build_detection_test_loader,
)
from detectron2.engine import DefaultTrainer, HookBase, TrainerBase
from detectron2.engine.hooks import EvalHook
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator, PascalVOCDetectionEvaluator
from detectron2.utils import comm

from ..data.crowds import CrowdDatasetMapper
from ..data.records import training_records
from ..data.unpickling import with_rehearsed_proposals
from ..errors import InputError
from ..monitor.scalars import logger
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
    has it. Weights and proposals run no code when they are read, unless they are trusted
    (:mod:`ohem_d2.trust`).
    """

    def __init__(self, cfg: Any):
        super().__init__(cfg)
        self._trainer = accumulating(self._trainer, cfg.SOLVER.get("ACCUMULATION_STEPS", 1))

    @property
    def last_results(self) -> dict:
        """Of the last evaluation, by task and metric, as ``test`` returns them."""
        return self._last_eval_results

    def train(self) -> Any:
        """
        See the parent.

        Raises:
            InputError: names the image that cannot be read, or says that the training diverged.
        """
        log = logging.getLogger(TrainerBase.__module__)
        log.addFilter(_in_one_line)
        try:
            return super().train()
        except FloatingPointError as e:
            raise InputError(
                f"{e} Lower SOLVER.BASE_LR or set SOLVER.CLIP_GRADIENTS.ENABLED True"
            ) from e
        except SystemExit as e:
            if e.code == SIGTERM_STATUS:
                comm.synchronize()  # The end of one process ends the others, who may still write.
            raise
        finally:
            log.removeFilter(_in_one_line)
            folder.release(self.cfg.OUTPUT_DIR)

    @classmethod
    def build_train_loader(cls, cfg: Any) -> ResumableLoader:
        records, left_out = training_records(cfg)
        for what in left_out:
            logger.warning(what)
        if empty := sum(not record.get("annotations") for record in records):
            logger.info(f"{empty} of {len(records)} images show no object: all RoIs are background")
        return ResumableLoader(cfg, cls.build_train_mapper(cfg), records)

    @classmethod
    def build_train_mapper(cls, cfg: Any) -> DatasetMapper:
        """What makes a model's input of a record; augmentations of one's own go here."""
        return CrowdDatasetMapper(cfg, is_train=True)

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

    @classmethod
    def build_test_loader(cls, cfg: Any, dataset_name: str) -> Any:
        mapper = CrowdDatasetMapper(cfg, is_train=False)
        cfg = with_rehearsed_proposals(cfg)
        return build_detection_test_loader(cfg, dataset_name, mapper=mapper)

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
        logger.warning(message)
        raise NotImplementedError(message)


def _in_one_line(record: logging.LogRecord) -> bool:
    """A filter of logs: what is wrong with the input needs no traceback."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, (InputError, FloatingPointError)):
        record.msg, record.args, record.exc_info = str(error), (), None
    return True


def _warn_of_absent_classes(dataset_name: str) -> None:
    """Detectron2's Pascal VOC evaluation has no average precision of a class without objects."""
    names = MetadataCatalog.get(dataset_name).thing_classes
    present = {a["category_id"] for r in DatasetCatalog.get(dataset_name) for a in r["annotations"]}
    if absent := [name for i, name in enumerate(names) if i not in present]:
        logger.warning(
            f"{dataset_name} has no object of class {', '.join(absent)}: its AP, and the mean over "
            "all classes, may be nan"
        )
