"""
OHEM in scripts that do not know of it: Detectron2 imports the module that DETECTRON2_ENV_MODULE
names, ``ohem_d2.env``, and calls its ``setup_environment``.
"""

# Detectron2 is half imported by now, and ohem_d2 may be, so modules are imported one by one.
from ohem_d2 import heads  # noqa: F401, registers
from ohem_d2.config import add_ohem_config


def setup_environment() -> None:
    """Add OHEM's keys to the defaults, so that every ``get_cfg()`` has them."""
    from detectron2.config.defaults import _C

    add_ohem_config(_C)
