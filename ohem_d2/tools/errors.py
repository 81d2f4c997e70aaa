"""
Wrong input of a command, which is told in a line, apart from bugs, which keep their traceback.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from yaml import YAMLError

from ..files import write_atomically
from ..mining.losses import CannotMine
from ..trust import UntrustedFile

# Their texts are enough. Those of others are often short, and are told with what the error is.
_PLAIN_ERRORS = (CannotMine, ImportError, NotImplementedError, OSError, ValueError, YAMLError)


class InputError(ValueError):
    """What was given to a command is wrong; the text says what, to whoever gave it."""

    def __str__(self) -> str:
        # What is quoted from a file may hold sequences that a terminal would obey.
        return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in self.args[0])


@contextlib.contextmanager
def naming(what: str = "", bugs: tuple[type, ...] = ()) -> Iterator[None]:
    """
    For where input is read, which may raise anything; a model's forward pass, whose errors are no
    matter of input, does not belong in the context.

    Args:
        what: the input, a file, say. The message begins with it.
        bugs: these very errors are left as they are; ones that derive from them are not.

    Raises:
        InputError: in the place of any other error, which is its ``__cause__``.
    """
    try:
        yield
    # An InputError has been told what it is about, and the others are never due to input.
    except (InputError, AttributeError, NameError):
        raise
    except UntrustedFile as e:  # its text is complete
        raise InputError(str(e)) from e
    except Exception as e:
        if type(e) in bugs:
            raise
        raise InputError(f"{what}: {message(e)}" if what else message(e)) from e


def message(error: Exception) -> str:
    """What an error says, in words for the one who gave the input."""
    if isinstance(error, KeyError) and error.args:
        said = str(error.args[0])  # a sentence, or only the key that is not in a dict
        return said if " " in said else f"key {error.args[0]!r} is missing"
    return str(error) if isinstance(error, _PLAIN_ERRORS) else f"{type(error).__name__}: {error}"


def write_output(path: Path, content: bytes | str) -> None:
    """:func:`ohem_d2.files.write_atomically`, whose errors say what to do."""
    try:
        write_atomically(path, content)
    except OSError as e:
        raise InputError(f"{e}. Name another place with --output") from e
