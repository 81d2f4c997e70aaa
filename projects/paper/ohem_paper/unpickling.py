"""Pickles of strangers, without running what they may contain."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np


class ArrayUnpickler(pickle.Unpickler):
    """Of what a pickle may call or build, only what arrays of NumPy and BoxMode are made of."""

    ALLOWED = {
        *(
            ("numpy", "dtype"),
            ("numpy", "ndarray"),
            ("_codecs", "encode"),
            ("__builtin__", "bytes"),
        ),
        *(("numpy.core.multiarray", "_reconstruct"), ("numpy.core.multiarray", "scalar")),
        *(("numpy.core.numeric", "_frombuffer"), ("detectron2.structures.boxes", "BoxMode")),
    }

    @classmethod
    def read(cls, path: Path, kind: str) -> Any:
        """What a file holds. Raises ValueError if it is not of the kind, or not safe to load."""
        try:
            with open(path, "rb") as file:
                return cls(file, encoding="latin1").load()
        except Exception as e:  # a broken pickle may raise anything
            raise ValueError(f"{path} is no {kind} that is safe to load: {e}") from e

    def find_class(self, module: str, name: str) -> Any:
        # A file of NumPy 2 is read with NumPy 1, and the other way round.
        old_name = module.replace("numpy._core.", "numpy.core.")
        if (old_name, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it contains {module}.{name}, which may be harmful")
        is_old = np.__version__ < "2"
        return super().find_class(
            old_name if is_old else old_name.replace("numpy.core.", "numpy._core."), name
        )
