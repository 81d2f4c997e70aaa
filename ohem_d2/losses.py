"""The old name of ``ohem_d2.mining.losses``."""

from .mining.losses import box_regression, per_roi_losses

__all__ = ["box_regression", "per_roi_losses"]
