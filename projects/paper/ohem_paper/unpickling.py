"""Pickles of strangers, without running what they may contain."""

import pickle
from typing import Any

import numpy as np


class ArrayUnpickler(pickle.Unpickler):
    """Of what a pickle may call or build, only what arrays of NumPy are made of."""

    ALLOWED = {
        ("numpy", "dtype"),
        ("numpy", "ndarray"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy.core.multiarray", "scalar"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "scalar"),
        ("_codecs", "encode"),
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it contains {module}.{name}, which may be harmful")
        # A file of NumPy 2 is read with NumPy 1, and the other way round.
        if module.endswith("core.multiarray"):
            module = (
                np.core.multiarray.__name__ if np.__version__ < "2" else "numpy._core.multiarray"
            )
        return super().find_class(module, name)
