"""The old name of ``ohem_d2.mining.losses``."""

from .mining.losses import box_regression as box_regression
from .mining.losses import per_roi_losses as per_roi_losses
