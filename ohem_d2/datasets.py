"""The old name of ``ohem_d2.data.datasets``."""

from .data.datasets import register_datasets

__all__ = ["register_datasets"]
