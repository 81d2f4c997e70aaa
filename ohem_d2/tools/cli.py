"""
``python -m ohem_d2``: a command is a module of this folder with ``add_arguments(parser)`` and
``run(args)``, and its docstring is its help.
"""

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence

from detectron2.utils.logger import setup_logger

from .errors import errors_in_one_line
from .trust import trusting

COMMANDS = {
    "compare": "does OHEM help on your data? trains with and without, and answers",
    "inspect": "what OHEM picks on images, and why",
    "report": "curves and hardest images of a training run, in one HTML file",
    "collect-env": "what a bug report needs to say about the environment",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command: its name and arguments. SystemExit says what is wrong with the input."""
    setup_logger()
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="python -m ohem_d2")
    help_ = "; ".join(f"{name}: {what}" for name, what in COMMANDS.items())
    parser.add_argument("command", choices=COMMANDS, help=f"{help_}; each has a --help")
    name = parser.parse_args(argv[:1]).command
    module = {"inspect": "inspection", "collect-env": "collect_env"}.get(name, name)
    command = importlib.import_module(f".{module}", __package__)
    parser = argparse.ArgumentParser(
        prog=f"python -m ohem_d2 {name}",
        description=command.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_arguments(parser)
    args = parser.parse_intermixed_args(argv[1:])
    with errors_in_one_line(parser.prog), trusting(getattr(args, "trust", False)):
        command.run(args)


def _names(text: str) -> list[str]:
    if all(found := [name.strip() for name in text.split(",")]):
        return found
    raise argparse.ArgumentTypeError(f"{text!r} has an empty name; allowed: cat,traffic light")


def add_shared_arguments(parser: argparse.ArgumentParser, *flags: str) -> None:
    """Add those of these flags that several commands have."""
    classes = "of Pascal VOC data that may not have all, in the order of their ids"
    modules = "registers parts of the model or data sets; its add_..._config(cfg) are called"
    anew = "begin anew in an OUTPUT_DIR that has a run, which is set aside in earlier_1 or so"
    trust = "configuration, weights and proposals may run code: they come from where you trust"
    several = {"action": "append", "default": [], "dest": "modules", "metavar": "MODULE"}
    options = {
        "--classes": {"type": _names, "default": [], "metavar": "NAME,NAME...", "help": classes},
        "--import": {**several, "help": modules},
        "--overwrite": {"action": "store_true", "help": anew},
        "--trust": {"action": "store_true", "help": trust},
    }
    for flag in flags:
        parser.add_argument(flag, **options[flag])


def at_least(least: int) -> Callable[[str], int]:
    """The type of an argument that is a whole number, ``least`` or more."""

    def whole(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r}; allowed: a whole number >= {least}")
        return int(text)

    return whole
