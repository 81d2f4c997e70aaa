"""
Does OHEM help to find tree crowns? ``python -m ohem_d2 compare`` on aerial photographs, with one
seed by default. ::

    make demo
    PYTHONPATH=. python projects/tree_crowns/demo.py --seeds 3 --samplers random:128 ohem:128
"""

import sys
from collections.abc import Sequence

from ohem_d2.tools.cli import main
from projects.tree_crowns import prepare_data


def arguments(given: Sequence[str]) -> list[str]:
    """Arguments of ``compare``: the data, made if necessary, and the given arguments."""
    data = prepare_data.prepare(prepare_data.DATA)
    tiles = data / "tiles"
    own = ["--train-data", f"coco:{data / 'train.json'}:{tiles}"]
    own += ["--test-data", f"coco:{data / 'test.json'}:{tiles}"]
    own += ["--output", str(prepare_data.ROOT / "output/tree_crowns"), "--seeds", "1"]
    return ["compare", *own, *given]


if __name__ == "__main__":
    sys.argv[1:] = arguments(sys.argv[1:])  # which the page of the comparison shows
    main()
