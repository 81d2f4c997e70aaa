"""
What a bug report needs to say about the environment. ::

    python -m ohem_d2 collect-env
"""

import argparse
import contextlib
import importlib.metadata
import os

import torch
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.utils import collect_env
from tabulate import tabulate

import ohem_d2

_HOW_TO_REPORT = """\
Report a bug with all of the above, the command, and of OUTPUT_DIR config.yaml and log.txt; of a
result that you did not expect metrics.json, and that of the same run with Detectron2's own heads;
and, if you can, a few images and annotations, or a random model, that show it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None."""


def run(args: argparse.Namespace) -> None:
    """Print it."""
    print(collect_env_info())
    print(_HOW_TO_REPORT)


def collect_env_info() -> str:
    """Detectron2's report on the environment, followed by ours."""
    try:
        of_detectron2 = collect_env.collect_env_info()
    except Exception as e:  # it must not keep back the rest, and is itself worth reporting
        of_detectron2 = f"detectron2.utils.collect_env failed: {e!r}"
    heads = [n for n, c in ROI_HEADS_REGISTRY if issubclass(c, ohem_d2.OHEMMixin)]
    versions = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}
    rows = {
        "ohem_d2": f"{ohem_d2.__version__} @{os.path.dirname(ohem_d2.__file__)}",
        "registered heads": ", ".join(heads),
        "Detectron2: compiled ops": has_compiled_ops(),
        **{n: versions.get(n, "not found") for n in ("pycocotools", "omegaconf", "setuptools")},
    }
    return f"{of_detectron2}\n{tabulate(rows.items())}\n"


def has_compiled_ops() -> bool:
    """Whether Detectron2's compiled ops, which rotated boxes need, are there and load."""
    with contextlib.suppress(ImportError, OSError):
        import detectron2._C  # noqa: F401
    return hasattr(torch.ops.detectron2, "nms_rotated")  # v0.6 registers no other there
