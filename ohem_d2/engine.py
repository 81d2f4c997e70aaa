"""The old name of ``ohem_d2.training.trainer``."""

from .training.trainer import OHEMTrainer as OHEMTrainer
