"""
``python -m ohem_d2``. A command is a module of this folder with ``add_arguments(parser)`` and
``run(args)``. The module's docstring is the command's help.
"""

import argparse
import contextlib
import importlib
import sys
from collections.abc import Callable, Sequence

import torch
from detectron2.utils.logger import setup_logger

from .errors import errors_in_one_line
from .trust import trusting

COMMANDS = {
    "compare": "does OHEM help on your data? trains with and without it, and compares",
    "inspect": "what OHEM picks on images, and why",
    "report": "curves and hardest images of a training run, in one HTML file",
    "collect-env": "what a bug report needs to say about the environment",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command, given by name and arguments. SystemExit says what is wrong with the input."""
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
    """Add flags that several commands share."""
    classes = "all classes of Pascal VOC data that may lack some, in the order of their ids"
    modules = "to import: registers models or data sets; its add_..._config(cfg) is called"
    anew = "start over in an OUTPUT_DIR that has a run; that run is moved to earlier_1, ..."
    trust = "let configuration, weights and proposals run code, as you trust their source"
    several = {"action": "append", "default": [], "dest": "modules", "metavar": "MODULE"}
    options = {
        "--classes": {"type": _names, "default": [], "metavar": "NAME,NAME...", "help": classes},
        "--import": {**several, "help": modules},
        "--overwrite": {"action": "store_true", "help": anew},
        "--trust": {"action": "store_true", "help": trust},
    }
    for flag in flags:
        parser.add_argument(flag, **options[flag])


def device(text: str) -> str:
    """The type of an argument that is a device of PyTorch."""
    with contextlib.suppress(RuntimeError):
        return str(torch.device(text))
    hint = "KEY VALUE pairs go before this option, or after another one"
    raise argparse.ArgumentTypeError(f"{text!r}; allowed: cpu, cuda:0 or another device; {hint}")


def at_least(least: int) -> Callable[[str], int]:
    """The type of an argument: a whole number, ``least`` or more."""

    def whole(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r}; allowed: a whole number >= {least}")
        return int(text)

    return whole
