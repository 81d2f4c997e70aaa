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
Report a bug with all of the above, the command, and config.yaml and log.txt of OUTPUT_DIR. For an
unexpected result, add metrics.json, and that of the same run with Detectron2's own heads. If you
can, add a few images with annotations, or a random model, that show the bug."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """This command takes no arguments."""


def run(args: argparse.Namespace) -> None:
    """Print it."""
    print(collect_env_info())
    print(_HOW_TO_REPORT)


def collect_env_info() -> str:
    """Detectron2's report on the environment, followed by ours."""
    try:
        of_detectron2 = collect_env.collect_env_info()
    except Exception as e:  # it must not hide the rest, and is worth reporting itself
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
    return hasattr(torch.ops.detectron2, "nms_rotated")  # the only op that v0.6 registers
