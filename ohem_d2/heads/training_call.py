"""One training call of ROI heads: what the sampler hook has to know and is not told."""

import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from detectron2.structures import ImageList, Instances
from torch import nn

from ..compat import not_compiled
from ..mining.labelling import shallow_copy

_KNOWN = ("images", "features", "proposals", "targets")


class TrainingCall:
    """
    Made and dropped by ``OHEMMixin``: whatever lives as long as that call.

    Attributes:
        images, features, targets: what the parent's ``forward`` gets, after forward pre-hooks; None
            where it has none.
        extras: its other arguments, by name.
        shown: the proposals and targets that the sampler hook was called with last; None if it was
            not reached.
        num_labelled: while the parent labels, the images that are labelled so far; else None.
        mined: the batches that the hook returned; none in a warm-up.
        repeats: these again, while the call is gone through again and the hook answers with them;
            else None.
        state: what a subclass of the heads has to keep from one of its seams to the next.
    """

    def __init__(self, heads: nn.Module, args: tuple, kwargs: Mapping[str, Any]):
        self._args, self._kwargs = _copied(args), _copied(kwargs)
        self._signature = inspect.signature(type(heads).forward)
        self.images: ImageList | None = None
        self.features: dict[str, torch.Tensor] | None = None
        self.targets: list[Instances] | None = None
        self.extras: dict[str, Any] = {}
        self.num_labelled: int | None = None
        self.shown: tuple[list[Instances], list[Instances]] | None = None
        self.mined: list[list[Instances]] = []
        self.repeats: Iterator[list[Instances]] | None = None
        self.state: dict[str, Any] = {}

    @not_compiled
    def before_forward(self, heads: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        """A forward pre-hook."""
        extras = self._signature.bind(heads, *args, **kwargs).arguments
        own, *others = self._signature.parameters.values()
        del extras[own.name]
        for parameter in others:
            if parameter.kind is parameter.VAR_KEYWORD:
                extras |= extras.pop(parameter.name, {})
            elif parameter.kind is parameter.VAR_POSITIONAL:
                extras.pop(parameter.name, None)
        # Where they have other names, it goes by their places.
        named = {name: extras.pop(name) for name in _KNOWN if name in extras}
        if "features" not in named:
            named = {**dict(zip(_KNOWN, args)), **named}
        self.images, self.features = named.get("images"), named.get("features")
        self.targets, self.extras = named.get("targets"), extras

    def extras_for(self, function: Callable) -> dict[str, Any]:
        """Those of the other arguments that the function takes."""
        parameters = inspect.signature(function).parameters
        names = set(self.extras) - {"features", "proposals", "stage"}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            names &= set(parameters)
        return {name: self.extras[name] for name in names}

    def again(self, heads: nn.Module, first: Callable[[], None]) -> Any:
        """
        What the parent's ``forward`` returns for the same arguments and the mined RoIs; ``first``
        is called when it reaches the sampler hook. Buffers are as before afterwards.
        """

        def repeats() -> Iterator[list[Instances]]:
            first()
            yield from itertools.cycle(self.mined)

        buffers = [(buffer, buffer.clone()) for buffer in heads.buffers()]
        self.repeats = repeats()
        try:
            return nn.Module.__call__(heads, *_copied(self._args), **_copied(self._kwargs))
        finally:
            self.repeats = None
            for buffer, before in buffers:
                buffer.data.copy_(before)  # which a pending backward pass does not notice

    def answer(self) -> list[Instances]:
        """Of the sampler hook when the call is gone through again."""
        return _copied(next(self.repeats))


def _copied(value: Any) -> Any:
    """Lists, dicts and instances may be changed by whom they are given to. Tensors are shared."""
    if isinstance(value, Instances):
        return shallow_copy(value)
    if type(value) in (list, tuple):
        return type(value)(_copied(part) for part in value)
    if type(value) is dict:
        return {key: _copied(part) for key, part in value.items()}
    return value
