"""The old name of ``ohem_d2.training.trainer``."""

from .training.trainer import OHEMTrainer

__all__ = ["OHEMTrainer"]
