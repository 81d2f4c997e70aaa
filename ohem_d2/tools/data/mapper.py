"""Detectron2's mapper with crowd regions, for the commands here: its errors name the image."""

import numpy as np
from detectron2.config import CfgNode

from ...mining.candidates import CrowdDatasetMapper
from ..input_errors import naming
from .datasets import NEGATIVES
from .faults import must_be_file
from .keypoint_names import check_keypoints


class TrainingMapper(CrowdDatasetMapper):
    """
    ``CrowdDatasetMapper`` that drops annotations whose boxes are not finite and takes images
    without objects as they are.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict:
        """See the parent. Raises InputError if the data to train on lack names of keypoints."""
        if cfg.MODEL.KEYPOINT_ON:
            cfg = cfg.clone()
            cfg.defrost()
            # The parent asks all data for names of keypoints, and a test as well, which has no use
            # for them. Images without objects have none.
            named = [name for name in cfg.DATASETS.TRAIN if not name.startswith(NEGATIVES)]
            cfg.DATASETS.TRAIN = tuple(named)
            cfg.MODEL.KEYPOINT_ON = is_train and bool(named)
            if is_train:
                check_keypoints(named)
        return super().from_config(cfg, is_train)

    def __call__(self, dataset_dict: dict) -> dict:
        """See the parent. Raises InputError if the image or its annotations cannot be read."""
        name = str(dataset_dict["file_name"])
        with naming():
            if "://" not in name:
                must_be_file(name, "an image")
        with naming(name, (TypeError, IndexError)):
            return super().__call__(dataset_dict)

    def _transform_annotations(self, dataset_dict, transforms, image_shape) -> None:
        # Detectron2 would take infinity for the edge of the image.
        finite = [a for a in dataset_dict["annotations"] if np.isfinite(a["bbox"]).all()]
        dataset_dict["annotations"] = finite
        super()._transform_annotations(dataset_dict, transforms, image_shape)
