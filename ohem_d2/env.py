"""
OHEM in scripts that do not know of it, by DETECTRON2_ENV_MODULE=ohem_d2.env, see docs/models.md:
Detectron2 imports the module that this names, and calls its ``setup_environment``.
"""

# Detectron2 is half imported by now, and ohem_d2 may be, so modules are imported one by one.
from ohem_d2.config import add_ohem_config
from ohem_d2.heads import cascade, focal, keypoints, rotated, standard  # noqa: F401, registers


def setup_environment() -> None:
    """
    Register the heads and add their keys to the defaults of Detectron2's configs, so that every
    ``get_cfg()`` has them. Setting the variable asks for that; importing this module does not.
    """
    from detectron2.config.defaults import _C

    add_ohem_config(_C)
