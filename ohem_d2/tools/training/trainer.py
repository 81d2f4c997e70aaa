"""Fill in what Detectron2's DefaultTrainer leaves open."""

import errno
import functools
import logging
from typing import Any

from detectron2.data import DatasetMapper, MetadataCatalog, build_detection_test_loader
from detectron2.engine import DefaultTrainer, HookBase, TrainerBase
from detectron2.engine.hooks import EvalHook
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from torch import nn

from ...config import OHEMSettings
from ...heads import OHEMMixin
from ..data.evaluation import build_evaluator
from ..data.mapper import TrainingMapper, map_record
from ..data.records import training_records
from ..data.unpickling import with_checked_proposals
from ..errors import InputError
from ..load_model import heads_class
from . import run_folder
from .batches import ResumableLoader
from .checkpoints import Checkpointer
from .processes import EndOnSigterm, Terminated
from .resumption import Evaluation, ExactResumption, resumption_notes

logger = logging.getLogger(__name__)


class OHEMTrainer(DefaultTrainer):
    """
    Keeps crowd regions for the miner, evaluates as the data set's metadata say, and can be
    interrupted (docs/safety.md). Weights and proposals run no code unless they are trusted.
    """

    @property
    def last_results(self) -> dict:
        """The results of the last evaluation, by task and metric, as ``test`` returns them."""
        return self._last_eval_results

    def train(self) -> Any:
        """See the parent. InputError for a bad image, a full disk, or when training diverges."""
        if getattr(self._trainer, "async_write_metrics", False):
            raise InputError("async_write_metrics = True loses scalars of mining; set it to False")
        log = logging.getLogger(TrainerBase.__module__)
        log.addFilter(_in_one_line)
        try:
            return super().train()
        except FloatingPointError as e:
            remedy = "Lower SOLVER.BASE_LR or set SOLVER.CLIP_GRADIENTS.ENABLED True"
            raise InputError(f"{e} {remedy}") from e
        except OSError as e:
            if not _is_full(e):
                raise
            raise InputError(f"OUTPUT_DIR {self.cfg.OUTPUT_DIR}: {e.strerror}") from e
        except Terminated:
            comm.synchronize()  # The end of one process ends the others, which may still write.
            raise
        finally:
            log.removeFilter(_in_one_line)
            run_folder.release(self.cfg.OUTPUT_DIR)

    def after_train(self) -> None:
        # Detectron2 counts one iteration too many when a finished run is resumed.
        self.iter = min(self.iter, max(self.start_iter, self.max_iter))
        super().after_train()

    @classmethod
    def build_train_loader(cls, cfg: Any) -> ResumableLoader:
        records, notes = training_records(cfg)
        for note in notes:
            logger.warning(note)
        if empty := sum(not record.get("annotations") for record in records):
            logger.info(f"{empty} of {len(records)} images show no object: all RoIs are background")
        mapper = functools.partial(map_record, cls.build_train_mapper(cfg))
        return ResumableLoader(cfg, mapper, records)

    @classmethod
    def build_train_mapper(cls, cfg: Any) -> DatasetMapper:
        """The mapper from records to a model's inputs. Override it to add augmentations."""
        mapper = TrainingMapper(cfg, is_train=True)
        if mapper.use_keypoint:
            # Data sets of images without objects have no map; all others have the same one.
            of_all = (MetadataCatalog.get(d).get("keypoint_flip_map") for d in cfg.DATASETS.TRAIN)
            pairs = list(next(filter(None, of_all), ()))
            logger.info(f"Keypoints that trade places in mirrored images: {pairs or 'none'}")
        return mapper

    def build_hooks(self) -> list[HookBase]:
        # Replaces Detectron2's checkpointer before the hooks take that one
        parts = self.checkpointer.checkpointables
        self.checkpointer = Checkpointer(self.model, self.cfg.OUTPUT_DIR, **parts)
        hooks = super().build_hooks()
        # After all that a checkpoint needs, and before the evaluation, which takes long
        place, given = next((i, hook) for i, hook in enumerate(hooks) if isinstance(hook, EvalHook))
        hooks[place : place + 1] = [EndOnSigterm(), Evaluation(given._period, given._func)]
        return [ExactResumption(self.cfg), *hooks]

    def resume_or_load(self, resume: bool = True) -> None:
        """See the parent. Takes the folder, see :func:`ohem_d2.tools.training.run_folder.claim`."""
        run_folder.claim(self.cfg.OUTPUT_DIR, resume=resume)
        for note in resumption_notes(self.cfg, self.model, self.optimizer) if resume else ():
            logger.warning(note)
        super().resume_or_load(resume)

    @classmethod
    def build_model(cls, cfg: Any) -> nn.Module:
        """See the parent. InputError if OHEM is asked for, and the model has no ROI heads."""
        model, name = super().build_model(cfg), cfg.MODEL.ROI_HEADS.NAME
        mines = any(isinstance(module, OHEMMixin) for module in model.modules())
        named = issubclass(heads_class(name), OHEMMixin)
        asked = named or OHEMSettings.from_cfg(cfg) != OHEMSettings()
        if asked and not mines and not hasattr(model, "roi_heads"):
            what = f"NAME = {name!r}" if named else "OHEM has other values than its defaults"
            of = f"MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE!r} has no ROI heads"
            raise InputError(f"MODEL.ROI_HEADS.{what}, and {of}: OHEM is for two-stage detectors")
        return model

    @classmethod
    def build_test_loader(cls, cfg: Any, dataset_name: str) -> Any:
        mapper = functools.partial(map_record, TrainingMapper(cfg, is_train=False))
        cfg = with_checked_proposals(cfg)
        return build_detection_test_loader(cfg, dataset_name, mapper=mapper)

    @classmethod
    def build_evaluator(cls, cfg: Any, dataset_name: str) -> DatasetEvaluator:
        try:
            return build_evaluator(cfg, dataset_name)
        except NotImplementedError as e:
            # DefaultTrainer goes on without an evaluation, and does not log the reason.
            logger.warning(str(e))
            raise


def _is_full(error: BaseException | None) -> bool:
    """Whether the error says that the disk or quota is full, or the file too large."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _in_one_line(record: logging.LogRecord) -> bool:
    """A filter for log records: wrong input needs no traceback."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, (InputError, FloatingPointError)) or _is_full(error):
        record.msg, record.args, record.exc_info = str(error), (), None
    return True
