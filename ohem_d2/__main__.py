"""``python -m ohem_d2``: see ``ohem_d2/tools/cli.py``."""

from detectron2.utils.logger import setup_logger

from .tools.cli import main

if __name__ == "__main__":
    setup_logger()
    main()
