"""
A Sphinx directive, ``config-keys``: every key that ohem_d2 adds to a configuration, with its
default, the values that it takes, and the comment above it in the code, so that there is nothing to
keep up to date.
"""

import ast
import dataclasses
import functools
import inspect
import operator
import re
from collections.abc import Iterator, Sequence

from detectron2.config import get_cfg
from sphinx.util.docutils import SphinxDirective

from ohem_d2 import config
from ohem_d2.training import accumulation

NODE = "MODEL.ROI_HEADS.OHEM"


@dataclasses.dataclass(frozen=True)
class Key:
    name: str
    default: object
    allowed: str  # empty if that is checked elsewhere
    comment: str


def all_keys() -> list[Key]:
    """In the order of the code; a key that two functions add is listed once."""
    return list({key.name: key for key in (*_settings(), *_other_keys())}.values())


def _settings() -> Iterator[Key]:
    (body,) = ast.parse(inspect.getsource(config.OHEMSettings)).body
    found = comments(config.OHEMSettings, (n for n in body.body if isinstance(n, ast.AnnAssign)))
    for field, comment in zip(dataclasses.fields(config.OHEMSettings), found):
        # What a key takes is said by the error for a value that none takes.
        try:
            config.OHEMSettings(**{field.name: object()})
        except ValueError as e:
            allowed = str(e).split("; allowed: ")[1]
        yield Key(f"{NODE}.{field.name.upper()}", field.default, allowed, comment)


def _other_keys() -> Iterator[Key]:
    """Those that functions add beside the node of the settings."""
    cfg = get_cfg()
    for add in (config.add_ohem_config, accumulation.add_accumulation_config):
        add(cfg)
        assigned = [
            node
            for node in ast.walk(ast.parse(inspect.getsource(add)))
            if isinstance(node, ast.Assign) and ast.unparse(node).startswith("cfg.")
        ]
        for node, comment in zip(assigned, comments(add, assigned)):
            name = ast.unparse(node.targets[0]).removeprefix("cfg.")
            if name != NODE:
                value = functools.reduce(operator.getitem, name.split("."), cfg)
                yield Key(name, value, "", comment)


def comments(thing: object, nodes: Sequence[ast.AST]) -> Iterator[str]:
    """
    Of each node the comment in the lines above it. One that follows another node at once shares
    its comment.

    Raises:
        ValueError: for a node without any.
    """
    lines = inspect.getsource(thing).splitlines()
    last, comment = -1, ""
    for node in nodes:
        start = end = node.lineno - 1
        while lines[start - 1].strip().startswith("#"):
            start -= 1
        if start < end:
            comment = " ".join(line.strip(" #") for line in lines[start:end])
        elif last != end - 1:
            raise ValueError(f"{ast.unparse(node)} in {thing} has no comment above it")
        last = node.end_lineno - 1
        yield comment


def to_markdown(key: Key) -> str:
    default = f'"{key.default}"' if isinstance(key.default, str) else key.default
    # Values in quotes and names with underscores as code, other pages as links
    code = re.compile(r'"[^"]*"|\b[A-Za-z]+(_[A-Za-z]+)+\b')
    text = code.sub(r"`\g<0>`", key.comment)
    text = re.sub(r"\bdocs/(\w+\.md)\b", r"[\1](\1)", text)
    if key.allowed:
        text += "\n\nAllowed: " + code.sub(r"`\g<0>`", key.allowed) + "."
    return f"````{{confval}} {key.name}\n:default: `{default}`\n\n{text}\n````\n"


class ConfigKeys(SphinxDirective):
    def run(self) -> list:
        for module in (config, accumulation):
            self.env.note_dependency(inspect.getsourcefile(module))
        text = "\n".join(to_markdown(key) for key in all_keys())
        return self.parse_text_to_nodes(text)


def setup(app) -> dict:
    app.add_directive("config-keys", ConfigKeys)
    return {"parallel_read_safe": True}
