"""The old name of ``python -m ohem_d2 report``."""

from .tools.cli import main_of_old_name

if __name__ == "__main__":
    main_of_old_name("report")
