"""
A Sphinx directive, ``data-rules``: what can be wrong with a data set, and what becomes of it, from
the table that the checks use, so that there is nothing to keep up to date.
"""

from collections.abc import Iterator

from sphinx.util.docutils import SphinxDirective

from ohem_d2.tools.data import rules

THEN = {
    "stops": "stops the run",
    "left out": "is left out",
    "mended": "is repaired in memory",
    "told": "is reported",
}


def table() -> Iterator[str]:
    """A table in Markdown for each part of the rules."""
    for part, names in rules.TABLE.items():
        yield f"\n**{part[0].upper()}{part[1:]}**\n\n| found | what becomes of it | remedy |"
        yield "|---|---|---|"
        for rule in names.values():
            cells = (rule["what"], THEN[rule["then"]], rule.get("remedy", ""))
            yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


class DataRules(SphinxDirective):
    def run(self) -> list:
        self.env.note_dependency(str(rules.FILE))
        return self.parse_text_to_nodes("\n".join(table()))


def setup(app) -> dict:
    app.add_directive("data-rules", DataRules)
    return {"parallel_read_safe": True}
