"""Wrong input, which is told in a line, apart from bugs, which keep their traceback."""

import contextlib
import re
from collections.abc import Iterator

from yaml import YAMLError

# Their texts are enough. Those of others are often short, and are told with what the error is.
_PLAIN_ERRORS = (ImportError, NotImplementedError, OSError, ValueError, YAMLError)


def printable(text: str) -> str:
    """On one line, without what a terminal obeys: a file may be called, or hold, such things."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class InputError(ValueError):
    """What was given to a command is wrong; the text says what, to whoever gave it, in one line."""

    def __init__(self, text: str):
        # A process that works for another one, as a data loader's, sends its whole traceback as the
        # text, and what it had to say comes last.
        for name in InputError.names():
            text = text.rpartition(name)[2]
        text = re.sub(r"\s*\n\s*", " ", text.strip())
        super().__init__(printable(text))

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Of this class and those that derive from it, as a traceback has them before the text."""
        classes = (cls, *cls.__subclasses__())
        return tuple(f"{found.__module__}.{found.__qualname__}: " for found in classes)


@contextlib.contextmanager
def naming(what: str = "", bugs: tuple[type, ...] = (), only_data: bool = False) -> Iterator[None]:
    """
    For where input is read, which may raise anything; a model's forward pass, whose errors are no
    matter of input, does not belong in the context.

    Args:
        what: the input, a file, say. The message begins with it.
        bugs: these very errors are left as they are; ones that derive from them are not.
        only_data: no code is chosen by the input, so that AttributeError and NameError, which are
            bugs elsewhere, are due to it as well.

    Raises:
        InputError: in the place of any other error, which is its ``__cause__``.
    """
    try:
        yield
    except InputError:  # It has been told what it is about.
        raise
    except Exception as e:
        if type(e) in bugs or isinstance(e, (AttributeError, NameError)) and not only_data:
            raise
        raise InputError(f"{what}: {message(e)}" if what else message(e)) from e


def message(error: Exception) -> str:
    """What an error says, in words for the one who gave the input."""
    if isinstance(error, KeyError) and error.args:
        said = str(error.args[0])  # a sentence, or only the key that is not in a dict
        return said if " " in said else f"key {error.args[0]!r} is missing"
    if isinstance(error, RecursionError):
        return "it is nested too deeply, or includes itself"
    own = type(error).__module__.startswith(f"{__package__}.")
    name, said = type(error).__name__, str(error)
    return said if own or said and isinstance(error, _PLAIN_ERRORS) else f"{name}: {said}"
