"""The old name of ``ohem_d2.monitor.pictures``."""

from .monitor.pictures import MiningPictures as MiningPictures
