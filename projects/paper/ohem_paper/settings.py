"""Nodes of the configuration as dataclasses, which check their values when they are made."""

import dataclasses
from typing import Any, ClassVar, TypeVar

from detectron2.config import CfgNode

S = TypeVar("S", bound="Settings")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Base of such classes: a field is the key of that name in upper case."""

    NODE: ClassVar[str]  # its name in the configuration, with those of the nodes that it is in

    @classmethod
    def add_to(cls, cfg: CfgNode) -> None:
        """Add the node with its defaults, in place."""
        *nodes, name = cls.NODE.split(".")
        for node in nodes:
            cfg = cfg[node]
        cfg[name] = CfgNode({f.name.upper(): f.default for f in dataclasses.fields(cls)})

    @classmethod
    def from_cfg(cls: type[S], cfg: CfgNode) -> S:
        """
        Keys or the whole node may be missing (defaults).

        Raises:
            ValueError: names the key, its value and what is allowed.
        """
        for name in cls.NODE.split("."):
            cfg = cfg.get(name, {})
        return cls(**{key.lower(): value for key, value in cfg.items()})

    def require(self, name: str, holds: Any, allowed: str) -> None:
        """Raises ValueError about a field, unless its value holds."""
        if not holds:
            value = getattr(self, name)
            raise ValueError(f"{self.NODE}.{name.upper()} = {value!r}; allowed: {allowed}")


def is_whole(value: Any, least: int) -> bool:
    """Whether it is a whole number, and no less."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
