"""
A second device where there is none. Its tensors lie in the host's memory and say that they are on
it; what mixes them with the host's raises, as CUDA would.
"""

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map_only

SECOND, HOST = torch.device("xpu", 0), torch.device("cpu")


class SecondDevice(TorchFunctionMode):
    """
    Within the context what is made of tensors on SECOND is there, and what is made without naming a
    device on the host. Of the host's, scalars and indices alone may be mixed with the others.
    """

    def __init__(self) -> None:
        super().__init__()
        # By address. They are kept, so that no other one comes to have the address.
        self._storages: dict[int, Any] = {}
        self.host_indices = 0  # how often a tensor was indexed by one on the host: a copy each time

    def take(self, tensor: Tensor) -> Tensor:
        """The tensor, a parameter or buffer of a module say, from now on on SECOND."""
        storage = tensor.untyped_storage()
        self._storages[storage._cdata] = storage
        return tensor

    def has(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self._storages

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, where = kwargs or {}, (kwargs or {}).get("device")
        given = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
        sides = {self.has(x) for x in given if x.dim() > 0 or self.has(x)}
        if func == Tensor.device.__get__:
            return SECOND if True in sides else HOST
        if func in (Tensor.to, Tensor.cpu):  # to a device, or that of another tensor
            places = [x for x in args[1:] if isinstance(x, (str, torch.device, Tensor))]
            where = HOST if func == Tensor.cpu else [*places, where][0]
            if isinstance(where, Tensor):
                where = SECOND if self.has(where) else HOST
        elif func == Tensor.__getitem__ and self.has(args[0]):
            self.host_indices += len(sides) == 2
        elif len(sides) == 2 or True in sides and func in (Tensor.numpy, Tensor.__array__):
            raise RuntimeError(f"{func.__name__}() of tensors on {SECOND} and on {HOST}")
        there = True in sides if where is None else torch.device(where) == SECOND
        args, kwargs = tree_map_only(torch.device, lambda _: HOST, (args, kwargs))
        result = func(*args, **kwargs)
        if where is not None and isinstance(result, Tensor) and self.has(result) != there:
            result = result.clone()  # what was moved lies elsewhere
        for tensor in (x for x in tree_flatten(result)[0] if there and isinstance(x, Tensor)):
            self.take(tensor)
        return result


def is_told_of_indexing() -> bool:
    """Whether PyTorch calls a mode when a tensor is indexed, which 2.3 does not."""
    with SecondDevice() as mode:
        tensor = mode.take(torch.arange(2))
        return mode.has(tensor[torch.tensor([1])])
