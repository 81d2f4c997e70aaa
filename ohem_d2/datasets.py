"""The old name of ``ohem_d2.data.datasets``."""

from .data.datasets import register_datasets as register_datasets
