"""The old name of ``python -m ohem_d2 report``."""

import runpy

if __name__ == "__main__":
    runpy.run_module("ohem_d2.tools.report", run_name="__main__")
