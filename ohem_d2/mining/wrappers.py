"""Modules that wrap another one and hand everything through to it."""

from collections.abc import Callable

from torch import nn


def unwrapped(module: nn.Module, known: Callable[[nn.Module], bool]) -> nn.Module:
    """
    What ``torch.compile``, ``checkpoint_wrapper`` and the like are wrapped around: as long as a
    module is not ``known`` and has a single child, the child is looked at. The first known one; the
    given module if there is none.
    """
    inner = module
    while not known(inner):
        children = list(inner.children())
        if len(children) != 1:
            return module
        inner = children[0]
    return inner
