"""How OHEM heads are constructed: from a configuration or arguments, whatever their parents do."""

import contextvars
from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode
from omegaconf import DictConfig

from ..config import OHEMSettings
from ..mining.record import MiningWatcher
from ..monitor.pictures import MiningPictures
from ..monitor.scalars import logger
from . import checks

# The class that hands its parents a configuration at the moment
_handing_on: contextvars.ContextVar[type | None] = contextvars.ContextVar("_handing_on")


class Constructed:
    """
    The part of ``OHEMMixin`` that takes settings. Parents may be ``@configurable`` or not: they are
    given what this is given, and a configuration among it is read here as well.
    """

    def __init__(
        self,
        *args: Any,
        ohem: OHEMSettings | Mapping[str, Any] | None = None,
        watcher: MiningWatcher | None = None,
        **kwargs: Any,
    ):
        """
        Args:
            args, kwargs: the parent's: a cfg and what goes with it, or explicit arguments. Its
                ``batch_size_per_image`` is B/N of the paper, its ``positive_fraction`` counts only
                during a warm-up.
            ohem: the settings, or a dict of some of them, as in a LazyConfig; if None those of the
                cfg, else the defaults.
            watcher: is shown what is mined; from a cfg with VIS_PERIOD, one that draws it.

        Raises ValueError if settings do not fit each other or the head, CannotMine or
        NotImplementedError if the head or its predictor cannot be ranked by.
        """
        token = _handing_on.set(type(self))
        try:
            super().__init__(*args, **kwargs)
        finally:
            _handing_on.reset(token)
        given = (*args[:1], kwargs.get("cfg"))
        cfg = next((arg for arg in given if isinstance(arg, (CfgNode, DictConfig))), None)
        if cfg is not None:
            ohem = OHEMSettings.from_cfg(cfg) if ohem is None else ohem
            watcher = watcher or MiningPictures.from_cfg(cfg)
        self.ohem = ohem if isinstance(ohem, OHEMSettings) else OHEMSettings.from_dict(ohem or {})
        self.watcher = watcher
        checks.check_heads(self)
        logger.info(checks.describe(self))

    @classmethod
    def from_config(cls, cfg: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """
        The arguments that a configuration stands for: with ours for a ``@configurable`` class on
        top of these heads, without them for the parents.
        """
        ret = super().from_config(cfg, *args, **kwargs)
        if _handing_on.get(None) is not cls:
            ret["ohem"] = OHEMSettings.from_cfg(cfg)
            ret["watcher"] = MiningPictures.from_cfg(cfg)
        return ret
