"""The old name of ``python -m ohem_d2 collect-env``."""

import runpy

if __name__ == "__main__":
    runpy.run_module("ohem_d2.tools.collect_env", run_name="__main__")
