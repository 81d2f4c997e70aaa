"""Online Hard Example Mining (Shrivastava, Gupta, Girshick, CVPR 2016) for Detectron2."""

import importlib.util
import logging

if importlib.util.find_spec("detectron2") is None:
    message = "ohem_d2 is a plugin for Detectron2, which is not installed. Install it with\n    "
    how = "pip install 'git+https://github.com/facebookresearch/detectron2.git'"
    raise ModuleNotFoundError(message + how, name="detectron2")

import detectron2  # noqa: F401, E402, first: DETECTRON2_ENV_MODULE makes it import ohem_d2.env

from .config import OHEMSettings, add_ohem_config
from .heads import (
    OHEMCascadeROIHeads,
    OHEMMixin,
    OHEMRes5ROIHeads,
    OHEMROIHeads,
    OHEMRROIHeads,
    sampling_at_random,
)
from .mining.candidates import CrowdDatasetMapper, IgnoreRegions
from .mining.losses import CannotMine, per_roi_losses
from .mining.selection import select_hard_examples
from .model_zoo import get_config, get_config_file

__version__ = "0.4.0"

# Our log lines go where Detectron2's go, in every script that sets up Detectron2's logger.
logging.getLogger(__name__).parent = logging.getLogger("detectron2")
