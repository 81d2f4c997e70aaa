from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
VERSION = (ROOT / "ohem_d2" / "__init__.py").read_text().split('__version__ = "')[1].split('"')[0]

setup(
    name="ohem_d2",
    version=VERSION,
    description="Online Hard Example Mining (CVPR 2016) for Detectron2",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["ohem_d2", "ohem_d2.*"]),
    python_requires=">=3.10",
    # Detectron2 is missing on purpose: it is not on PyPI under its own name, and a user of this
    # plugin has it. Importing ohem_d2 without it says how to get it.
    install_requires=[
        "torch>=2.0",  # the autocast interface that scoring uses
        "torchvision>=0.15",  # NMS; goes with torch 2.0
        "fvcore>=0.1.5",  # per-RoI smooth L1 and GIoU losses, as Detectron2 computes them
        "opencv-python>=4.5",  # drawing what was mined
        "pycocotools>=2.0.2",  # COCO evaluation
        "numpy>=1.21",
    ],
)
