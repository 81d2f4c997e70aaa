"""``python -m ohem_d2``: see ``ohem_d2/tools/cli.py``."""

from .tools.cli import main

if __name__ == "__main__":
    main()
