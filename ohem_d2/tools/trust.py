"""Whether configurations, weights and proposals may run code when they are read."""

import contextlib
import os
import re
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

import detectron2
from detectron2.config import CfgNode
from yaml.constructor import ConstructorError

from .errors import InputError, UntrustedFile, in_words

#: What to say about a key that Detectron2 does not know
OWN_KEY = "If a module of your own adds this key by add_..._config(cfg), name it with --import"
_TRUSTED = ContextVar("trusted", default=False)


@contextlib.contextmanager
def trusting(trust: bool = True) -> Iterator[None]:
    """Within the context, files may run code when they are read, if ``trust``."""
    before = _TRUSTED.set(trust)
    try:
        yield
    finally:
        _TRUSTED.reset(before)


def trusted() -> bool:
    """Whether files may run code when they are read."""
    return _TRUSTED.get()


def merge_file(cfg: CfgNode, file: str | Path) -> None:
    """
    ``cfg.merge_from_file``, but YAML tags that call functions are allowed only in trusted files and
    in Detectron2's own. UntrustedFile and InputError name the file and what is wrong.
    """
    own = Path(os.path.abspath(file)).is_relative_to(Path(detectron2.__file__).parent)
    try:
        cfg.merge_from_file(str(file), allow_unsafe=own or trusted())
    except ConstructorError as e:
        tag = re.search(r"tag:yaml\.org,2002:(python/[^'\"]*)", e.problem or "")
        if not tag:
            raise InputError(f"{file}: {e}") from e
        what = f"the tag !!{tag[1]} makes an object of Python, and may run code"
        place = f"{e.problem_mark.name}, line {e.problem_mark.line + 1}:"
        raise UntrustedFile(place, f"{what}. Write plain values, a list for a tuple") from e
    except KeyError as e:
        raise InputError(f"{file}: {in_words(e)}. {OWN_KEY}") from e
    except (AttributeError, TypeError) as e:
        said = "there are no lines KEY: VALUE, as a configuration in YAML has, or not in a node"
        raise InputError(f"{file}: {said} of it") from e
    except Exception as e:  # yacs, PyYAML and Detectron2 raise many kinds
        raise InputError(f"{file}: {in_words(e)}") from e
