"""One training call of ROI heads: what the sampler hook has to know and is not told."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from detectron2.structures import ImageList, Instances
from torch import nn

from ..compat import not_compiled
from ..mining.labelling import shallow_copy

_KNOWN = ("images", "features", "proposals", "targets")


class TrainingCall:
    """
    Made and dropped by ``OHEMMixin.__call__``: whatever lives as long as that call.

    Attributes:
        images, features, proposals, targets: what the parent's ``forward`` gets, after forward
            pre-hooks; None where it has none of that name.
        extras: its other arguments, by name.
        sampled: whether the sampler hook was reached.
        num_labelled: while the parent labels, the images that are labelled so far; else None.
        mined: the batch that was mined for the first stage; None before that, and in a warm-up.
        repeats: the call is gone through again, and the hook answers with ``mined``.
        state: what a subclass of the heads has to keep from one of its seams to the next.
    """

    def __init__(self, heads: nn.Module, args: tuple, kwargs: Mapping[str, Any]):
        self._args, self._kwargs = _copied(args), _copied(kwargs)
        self._signature = inspect.signature(type(heads).forward)
        self.images: ImageList | None = None
        self.features: dict[str, torch.Tensor] | None = None
        self.proposals: list[Instances] | None = None
        self.targets: list[Instances] | None = None
        self.extras: dict[str, Any] = {}
        self.sampled = False
        self.num_labelled: int | None = None
        self.mined: list[Instances] | None = None
        self.repeats = False
        self.state: dict[str, Any] = {}

    @not_compiled
    def before_forward(self, heads: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        """
        A forward pre-hook.

        Raises:
            TypeError: if ``forward`` has no feature maps.
        """
        arguments = self._signature.bind(heads, *args, **kwargs).arguments
        extras = dict(list(arguments.items())[1:])  # without the heads
        for name, parameter in self._signature.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                extras.update(extras.pop(name, {}))
        for name in _KNOWN:
            setattr(self, name, extras.pop(name, None))
        if self.features is None:
            raise TypeError(
                f"{type(heads).__name__} cannot mine: its forward() has no argument `features`, "
                "the feature maps by name that OHEM scores the proposals on"
            )
        self.extras = extras

    def extras_for(self, function: Callable) -> dict[str, Any]:
        """Those of the other arguments that the function takes."""
        parameters = inspect.signature(function).parameters
        if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            return self.extras
        return {name: value for name, value in self.extras.items() if name in parameters}

    def again(self, heads: nn.Module) -> Any:
        """What the parent's ``forward`` returns for the same arguments and the mined RoIs."""
        self.repeats = True
        try:
            return nn.Module.__call__(heads, *_copied(self._args), **_copied(self._kwargs))
        finally:
            self.repeats = False


def _copied(value: Any) -> Any:
    """Lists, dicts and instances may be changed by whom they are given to. Tensors are shared."""
    if isinstance(value, Instances):
        return shallow_copy(value)
    if type(value) in (list, tuple):
        return type(value)(_copied(part) for part in value)
    if type(value) is dict:
        return {key: _copied(part) for key, part in value.items()}
    return value
