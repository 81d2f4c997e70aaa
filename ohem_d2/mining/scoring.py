"""The read-only pass: run a model over RoIs and leave no trace in it."""

import contextlib
import itertools
from collections.abc import Iterator

import torch
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage
from torch import nn

# Dropout masks are drawn for so many RoIs at a time, each block from a seed of its own, whatever
# the chunks are that pass through the network.
_MASK_BLOCK = 64

# Pixels of a side, and more than there are in a row. Smaller ones were no faster.
_TILE, _MAX_TILES = 128, 2**12

_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


def in_chunks(proposals: list[Instances], chunk_size: int) -> Iterator[list[Instances]]:
    """
    Split the RoIs of N images into parts of at most ``chunk_size`` RoIs.

    Each part again has N ``Instances``, as poolers expect, most of them empty; joined in order,
    image by image, the parts give back all RoIs in their order. There is at least one part, so
    that a network is also called if there is no RoI.
    """
    starts = list(itertools.accumulate((len(p) for p in proposals), initial=0))
    for begin in range(0, max(starts[-1], 1), chunk_size):
        yield [
            p[max(begin - start, 0) : max(begin + chunk_size - start, 0)]
            for p, start in zip(proposals, starts)
        ]


def by_location(boxes: torch.Tensor) -> torch.Tensor:
    """
    RoIs of an image in the order of their centers, tile of the image by tile.

    Neighbours share cells of the feature maps. Pooled one after another, they find them in the
    processor's cache, where proposals in the order of an RPN's scores jump about the maps.

    Args:
        boxes: of shape (R, 4), absolute XYXY pixels.

    Returns:
        int64 indices of shape (R,).
    """
    column, row = ((boxes[:, :2] + boxes[:, 2:]) / 2 // _TILE).unbind(dim=1)
    return torch.sort(row * _MAX_TILES + column, stable=True).indices


class ReadOnlyPass:
    """
    A context in which a module can be run without leaving a trace: no gradient is recorded, no
    statistic of a normalization is updated, no event is logged, no random state moves, and
    autocast remembers none of the casts.

    The module is in evaluation mode, so batch normalization takes its running statistics and a
    RoI's result does not depend on the others in its chunk. Dropout is the exception that the
    authors' release makes: it stays active, with masks that depend on the seed and on the RoI's
    place among all RoIs, and not on the chunk that it is in.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        dropout: bool,
        seed: int,
        iteration: int = 0,
        precision: torch.dtype | None = None,
    ):
        """
        Args:
            module: what is going to be run, or a parent of it.
            dropout: whether dropout layers that are active in training are active here.
            seed: masks are the same for the same seed.
            iteration: what events, if any are logged, would be logged for; they are discarded.
            precision: of autocast; None leaves autocast as it is.
        """
        self._training = [m for m in module.modules() if m.training]
        self._dropouts = [m for m in self._training if dropout and isinstance(m, _DROPOUTS)]
        self._seed = seed
        self._iteration = iteration
        self._precision = precision
        self._device = next((p.device.type for p in module.parameters()), "cpu")
        self._num_seen = 0  # RoIs in the chunks that are done
        self._num_calls = 0  # of dropout layers, in the present chunk

    def __enter__(self) -> "ReadOnlyPass":
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(EventStorage(self._iteration))
            cuda = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
            stack.enter_context(torch.random.fork_rng(devices=cuda))
            # A parameter cast without gradients would be taken from the cache by the training
            # pass in the same autocast region, which then would not reach the parameter.
            stack.callback(torch.set_autocast_cache_enabled, torch.is_autocast_cache_enabled())
            torch.set_autocast_cache_enabled(False)
            if self._precision is not None:
                stack.enter_context(torch.autocast(self._device, dtype=self._precision))
            stack.callback(self._restore_mode)
            for module in self._training:
                module.training = False
            for module in self._dropouts:
                stack.callback(module.register_forward_hook(self._drop).remove)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def next_chunk(self, num_rois: int) -> None:
        """Tell that a chunk of ``num_rois`` RoIs is done."""
        self._num_seen += num_rois
        self._num_calls = 0

    def _restore_mode(self) -> None:
        for module in self._training:
            module.training = True

    def _drop(self, module: nn.Module, inputs: tuple, output: torch.Tensor) -> torch.Tensor:
        """Apply to the output of a dropout layer, in evaluation mode the identity, its mask."""
        if module.p == 1:
            return torch.zeros_like(output)
        # nn.Dropout drops elements; its relatives for images and volumes drop whole channels.
        shape = output.shape[1:]
        if not isinstance(module, nn.Dropout):
            shape = (output.shape[1],) + (1,) * (output.dim() - 2)
        begin, end = self._num_seen, self._num_seen + len(output)
        blocks = [torch.empty((0, *shape), device=output.device)]
        for block in range(begin // _MASK_BLOCK, -(-end // _MASK_BLOCK)):
            generator = torch.Generator(output.device)
            generator.manual_seed(hash((self._seed, self._num_calls, block)) % 2**63)
            blocks.append(
                torch.rand((_MASK_BLOCK, *shape), generator=generator, device=output.device)
            )
        self._num_calls += 1
        offset = begin - begin // _MASK_BLOCK * _MASK_BLOCK
        keep = torch.cat(blocks)[offset : offset + len(output)] >= module.p
        return output * keep / (1 - module.p)
