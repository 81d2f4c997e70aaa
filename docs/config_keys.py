"""
A Sphinx directive, ``config-keys``: every key of OHEM with its default, the values that it takes,
and the comment above it in the code, so that there is nothing to keep up to date.
"""

import ast
import dataclasses
import inspect
import re
from collections.abc import Iterator, Sequence

from sphinx.util.docutils import SphinxDirective

from ohem_d2 import config


@dataclasses.dataclass(frozen=True)
class Key:
    name: str
    default: object
    allowed: str
    comment: str


def all_keys() -> Iterator[Key]:
    """In the order of the code."""
    (body,) = ast.parse(inspect.getsource(config.OHEMSettings)).body
    found = comments(config.OHEMSettings, [n for n in body.body if isinstance(n, ast.AnnAssign)])
    for field, comment in zip(dataclasses.fields(config.OHEMSettings), found):
        # The error for a value that no key takes says what this one takes.
        try:
            config.OHEMSettings(**{field.name: object()})
        except ValueError as e:
            allowed = str(e).split("; allowed: ")[1]
        yield Key(f"{config.NODE}.{field.name.upper()}", field.default, allowed, comment)


def comments(thing: object, nodes: Sequence[ast.AST]) -> Iterator[str]:
    """
    The comment in the lines above each node. A node that follows another one at once shares its
    comment. ValueError for a node without any.
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
    # Values in quotes and names with underscores as code
    code = re.compile(r"""(?<!\w)(["'])[^"']*\1|\b[A-Za-z]+([_.][A-Za-z]+)*_[A-Za-z]+\b""")
    text = code.sub(r"`\g<0>`", f"{key.comment}\n\nAllowed: {key.allowed}.")
    return f"````{{confval}} {key.name}\n:default: `{default}`\n\n{text}\n````\n"


class ConfigKeys(SphinxDirective):
    def run(self) -> list:
        self.env.note_dependency(inspect.getsourcefile(config))
        return self.parse_text_to_nodes("\n".join(map(to_markdown, all_keys())))


def setup(app) -> dict:
    app.add_directive("config-keys", ConfigKeys)
    return {"parallel_read_safe": True}
