"""The read-only pass: run heads over all RoIs, chunk by chunk, and leave no trace (Sec. 4.2)."""

import contextlib
import itertools
import math
import random
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage, get_event_storage
from torch import Tensor, nn
from torch.profiler import record_function

from .losses import NAMES, CannotMine, losses_to_rank_by

# From RoIs, one ``Instances`` for each image, to the box predictor and its predictions
Score = Callable[[list[Instances]], tuple[nn.Module, Any]]
# Most bytes of pooled RoIs per chunk. On a GPU (4,000 FPN RoIs) the host waits for each chunk.
_CHUNK_BYTES = {"cpu": 32 * 2**20, "cuda": 200 * 2**20}
TILE, _MAX_TILES = 128, 2**12  # side of a tile in pixels; more tiles than an image has in a row

DROPOUTS, BATCH_NORMS = nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm


def losses_of_all(
    network: nn.Module, score: Score, rois: list[Instances], chunk_size: int, **how: Any
) -> dict[str, Tensor]:
    """
    The losses that R labelled RoIs are ranked by, each float32 of shape (R,). ``score`` runs parts
    of the network on one chunk of RoIs at a time, within :func:`read_only`. Raises CannotMine if a
    part is sharded by itself: its processes would wait forever, as they have unequal chunks.
    """
    for name, part in network.named_modules():
        kinds = {base.__name__ for base in type(part).__mro__}
        if part is not network and kinds & {"FSDPModule", "FullyShardedDataParallel"}:
            raise CannotMine(f"{name} is sharded by itself: shard the ROI heads as a whole")
    losses = []
    with read_only(network, **how):
        for chunk in in_chunks(rois, chunk_size):
            predictor, predictions = score(chunk)
            with record_function("ohem/loss"):
                losses.append(losses_to_rank_by(predictor, predictions, chunk))
    return {name: torch.cat([part[name] for part in losses]) for name in NAMES}


@contextlib.contextmanager
def read_only(network: nn.Module, *, dropout: bool = False, precision: str = "") -> Iterator[None]:
    """
    Within the context the network leaves no trace: no gradients, no events, and random states and
    buffers are restored. It is in evaluation mode, so that a RoI does not depend on its chunk. With
    ``dropout``, dropout layers stay active, with their own masks (the authors' release).
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(EventStorage(get_event_storage().iter))
        stack.enter_context(evaluating(network, but=DROPOUTS if dropout else ()))
        stack.enter_context(same_state(network))
        # The passes must not share weights that autocast cached: type or gradient may differ.
        torch.clear_autocast_cache()
        stack.callback(torch.clear_autocast_cache)
        if precision:
            kind = next((p.device.type for p in network.parameters()), "cpu")
            stack.enter_context(torch.autocast(kind, dtype=getattr(torch, precision)))
        yield


@contextlib.contextmanager
def evaluating(network: nn.Module, kinds: Any = nn.Module, but: Any = ()) -> Iterator[None]:
    """Within the context modules of these kinds are in evaluation mode."""
    found = [m for m in network.modules() if m.training and isinstance(m, kinds)]
    with contextlib.ExitStack() as stack:
        for module in (m for m in found if not isinstance(m, but)):
            module.training = False
            stack.callback(setattr, module, "training", True)
            if isinstance(module, BATCH_NORMS):
                # A hook of PreciseBN counts training passes, and this is none.
                stack.callback(setattr, module, "_forward_pre_hooks", module._forward_pre_hooks)
                module._forward_pre_hooks = type(module._forward_pre_hooks)()
        yield


@contextlib.contextmanager
def same_state(network: nn.Module) -> Iterator[None]:
    """Restores random states and buffers at the end. Within, it draws from a different seed."""
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    rest = FrozenBatchNorm2d, BATCH_NORMS  # they change no buffer in evaluation mode
    owners = [m for m in network.modules() if not (isinstance(m, rest) and not m.training)]
    buffers = [(m, n, b, b.clone()) for m in owners for n, b in m.named_buffers(recurse=False)]
    states, on_cuda = (random.getstate(), np.random.get_state()), device.type == "cuda"
    generator = torch.cuda.default_generators[device.index] if on_cuda else torch.default_generator
    with torch.random.fork_rng(devices=[device] if on_cuda else []):
        # Dropout must not have the same masks as in the training pass.
        generator.manual_seed(zlib.crc32(generator.get_state().numpy()))
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
            for module, name, buffer, before in buffers:
                setattr(module, name, buffer)
                if buffer.shape == before.shape:
                    buffer.data.copy_(before)  # .data, or a pending backward pass would fail
                else:
                    buffer.data = before


def in_chunks(rois: list[Instances], chunk_size: int) -> Iterator[list[Instances]]:
    """Yield at least one part: N ``Instances`` with at most ``chunk_size`` RoIs in total."""
    starts = list(itertools.accumulate((len(r) for r in rois), initial=0))
    for begin in range(0, max(starts[-1], 1), chunk_size):
        yield [r[max(begin - s, 0) : max(begin + chunk_size - s, 0)] for r, s in zip(rois, starts)]


def by_location(centers: Tensor) -> Tensor:
    """
    Indices that sort RoIs by image tile, from their centers (R, 2), x and y in pixels. RoIs of one
    tile read the same cells of the feature maps, which are then in the processor's cache.
    """
    column, row = (centers // TILE).unbind(dim=1)
    return torch.sort(row * _MAX_TILES + column, stable=True).indices


def chunk_size_for(network: nn.Module, feature: Tensor, num_trained: int) -> int:
    """RoIs per chunk, pooled from a map (N, C, H, W): ``num_trained``, or more if these fit."""
    pooler = next((m for m in network.modules() if isinstance(m, ROIPooler)), None)
    if pooler is None:
        return num_trained
    roi_bytes = feature.shape[1] * math.prod(pooler.output_size) * feature.element_size()
    return max(num_trained, _CHUNK_BYTES.get(feature.device.type, 2**25) // roi_bytes)
