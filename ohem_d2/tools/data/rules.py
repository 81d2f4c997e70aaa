"""Faults of a data set. The table of the rules that a data set can break is ``rules.yaml``."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from ..errors import InputError, printable

FILE = Path(__file__).with_name("rules.yaml")
#: rules by topic and name, each with ``then``, ``what`` and perhaps ``remedy``
TABLE = yaml.safe_load(FILE.read_text())
_RULES = {name: rule for rules in TABLE.values() for name, rule in rules.items()}


@dataclasses.dataclass(frozen=True)
class Fault:
    """Where a data set breaks a rule."""

    what: str  #: in words, for several places; "(s)" is left out for one
    where: list[str]  #: each place; at least one
    then: str = "stops"  #: what becomes of the place, see the table
    remedy: str = ""  #: what is done, or to be done

    @property
    def stops(self) -> bool:
        """Whether it stops a run, sooner or later."""
        return self.then == "stops"

    def text(self, example: str = "") -> str:
        """How many places, what is wrong, perhaps an example, and what to do."""
        num, end = len(self.where), ", which are left out" if self.then == "left out" else ""
        remedy = f". {self.remedy}" if self.remedy else ""
        return f"{num} {self.what.replace('(s)', 's' * (num > 1))}{end}{example}{remedy}"

    def __str__(self) -> str:
        return self.text(f", such as {self.where[0]}")


def faults_of(name: str, where: Iterable[str], **values: Any) -> list[Fault]:
    """The fault of the rule of that name, if there is a place that breaks it."""
    rule, where = _RULES[name], [printable(place) for place in where]
    if not where:
        return []
    what, remedy = (rule.get(key, "").format(**values) for key in ("what", "remedy"))
    return [Fault(what, where, rule["then"], remedy)]


def stop_at_first(name: str, found: Iterable[Fault]) -> None:
    """Raises InputError, which names the data set, for the first fault that stops a run."""
    for fault in found:
        if fault.stops:
            raise InputError(f"{name}: {fault}")
