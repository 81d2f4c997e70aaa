"""
Configuration of the documentation. `make docs` builds it, or without make ::

    python -m sphinx -c docs -n -W --keep-going . output/docs

The source folder is the repository's root, so that the README and those of the projects are pages,
too, and links between all of them are checked.
"""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]

import ohem_d2  # noqa: E402, the clone's

project = "ohem_d2"
author = "ohem_d2 contributors"
version = release = ohem_d2.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "config_keys",
    "data_rules",
]
root_doc = "docs/index"
include_patterns = ["*.md", "docs/*.md", "projects/*/README.md"]
exclude_patterns = [".*", "build", "datasets", "dist", "output"]  # not even looked into
myst_heading_anchors = 3
smartquotes = False
# "Returns: int64 of shape (R,): the index ..." begins with no name of a type.
napoleon_custom_sections = ["Returns"]
# Names of other projects, whose documentation a build without a network cannot ask
nitpick_ignore_regex = [
    ("py:.*", r"(argparse|collections|contextlib|nn|np|numpy|omegaconf|pathlib)\b.*"),
    ("py:.*", r"(torch|typing|yacs)\b.*"),
    ("py:.*", r"(detectron2|fvcore)\..*"),
]
autodoc_member_order = "bysource"
html_theme = "alabaster"
html_theme_options = {
    "description": "Online Hard Example Mining for Detectron2",
    "fixed_sidebar": True,
    "page_width": "1080px",
}
html_show_sourcelink = False
html_show_copyright = False
