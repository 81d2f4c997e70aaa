"""Detectron2's mapper with crowd regions, and with errors that name the image."""

from collections.abc import Callable
from typing import Any

import numpy as np
from detectron2.config import CfgNode

from ...mining.candidates import CrowdDatasetMapper
from ..errors import input_errors
from ..files import must_be_file
from .datasets import NEGATIVES
from .keypoint_names import check_keypoints


class TrainingMapper(CrowdDatasetMapper):
    """``CrowdDatasetMapper`` that takes images without objects in trainings on keypoints."""

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict:
        """See the parent. Raises InputError if the data to train on lack names of keypoints."""
        if cfg.MODEL.KEYPOINT_ON:
            cfg = cfg.clone()
            cfg.defrost()
            # The parent needs names of keypoints for all data, even for a test, which does not use
            # them. Images without objects have none.
            named = [name for name in cfg.DATASETS.TRAIN if not name.startswith(NEGATIVES)]
            cfg.DATASETS.TRAIN = tuple(named)
            cfg.MODEL.KEYPOINT_ON = is_train and bool(named)
            if is_train:
                check_keypoints(named)
        return super().from_config(cfg, is_train)


def map_record(mapper: Callable[[dict], Any], record: dict) -> Any:
    """``mapper(record)``, without boxes that are not finite. InputError names the image."""
    name = str(record["file_name"])
    if "://" not in name:
        must_be_file(name, "an image")
    with input_errors(name):
        if "annotations" in record:
            # Detectron2 would clip infinity to the edge of the image.
            finite = [a for a in record["annotations"] if np.isfinite(a.get("bbox", 0)).all()]
            record = {**record, "annotations": finite}
        return mapper(record)
