"""Online Hard Example Mining (Shrivastava, Gupta, Girshick, CVPR 2016) for Detectron2."""

try:
    import detectron2  # noqa: F401
except ModuleNotFoundError as e:
    if e.name != "detectron2":
        raise
    raise ModuleNotFoundError(
        "ohem_d2 is a plugin for Detectron2, which is not installed. Install it with\n"
        "    pip install 'git+https://github.com/facebookresearch/detectron2.git'\n"
        "or, without a compiler, with `make setup` in a clone of ohem_d2",
        name="detectron2",
    ) from None

from .config import OHEMSettings, add_ohem_config
from .data.crowds import CrowdDatasetMapper, IgnoreRegions
from .heads.cascade import OHEMCascadeROIHeads
from .heads.focal import FocalLossOutputLayers, FocalROIHeads, OHEMFocalROIHeads
from .heads.keypoints import OHKMKeypointHead
from .heads.mixin import OHEMMixin, sampling_at_random
from .heads.rotated import OHEMRROIHeads
from .heads.standard import OHEMRes5ROIHeads, OHEMROIHeads
from .mining.losses import per_roi_losses
from .mining.selection import select_hard_examples
from .model_zoo import get_config, get_config_file

__version__ = "0.3.0"

__all__ = [
    "CrowdDatasetMapper",
    "FocalLossOutputLayers",
    "FocalROIHeads",
    "IgnoreRegions",
    "OHEMCascadeROIHeads",
    "OHEMFocalROIHeads",
    "OHEMMixin",
    "OHEMROIHeads",
    "OHEMRROIHeads",
    "OHEMRes5ROIHeads",
    "OHEMSettings",
    "OHKMKeypointHead",
    "add_ohem_config",
    "get_config",
    "get_config_file",
    "per_roi_losses",
    "sampling_at_random",
    "select_hard_examples",
]
