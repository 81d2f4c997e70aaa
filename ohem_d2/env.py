"""OHEM in scripts that do not import it: set ``DETECTRON2_ENV_MODULE=ohem_d2.env``."""

# Detectron2 imports this while it is half imported itself, so we import single modules.
from ohem_d2 import heads  # noqa: F401, registers
from ohem_d2.config import add_ohem_config


def setup_environment() -> None:
    """Called by Detectron2. Adds OHEM's keys to the defaults, so every ``get_cfg()`` has them."""
    from detectron2.config.defaults import _C

    add_ohem_config(_C)
