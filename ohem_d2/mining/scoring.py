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

# RoIs, one ``Instances`` for each image -> box predictor, its predictions
Score = Callable[[list[Instances]], tuple[nn.Module, Any]]
# Of the pooled RoIs of a chunk. On a GPU, where every chunk makes the host wait, 4,000 RoIs of FPN
_CHUNK_BYTES = {"cpu": 32 * 2**20, "cuda": 200 * 2**20}
TILE, _MAX_TILES = 128, 2**12  # pixels of a side, and more than there are in a row

DROPOUTS, BATCH_NORMS = nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm


def losses_of_all(
    network: nn.Module, score: Score, rois: list[Instances], chunk_size: int, **how: Any
) -> dict[str, Tensor]:
    """
    The losses that R labelled RoIs are ranked by, each float32 of shape (R,), from what ``score``,
    which runs parts of the network, predicts for chunks of them, :func:`read_only`. Raises
    CannotMine if a part is sharded by itself: processes differ in their numbers of chunks.
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
    Within the context the network leaves no trace: no gradient, no event, random states and buffers
    as before. It is in evaluation mode, so that RoIs do not depend on others in their chunk, but
    for dropout layers with ``dropout`` (the authors' release), which have masks of their own.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(EventStorage(get_event_storage().iter))
        stack.enter_context(evaluating(network, but=DROPOUTS if dropout else ()))
        stack.enter_context(same_state(network))
        # The passes must not share what autocast makes of weights, of another type or gradient.
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
                # PreciseBN counts by a hook how often a layer is used in training.
                stack.callback(setattr, module, "_forward_pre_hooks", module._forward_pre_hooks)
                module._forward_pre_hooks = type(module._forward_pre_hooks)()
        yield


@contextlib.contextmanager
def same_state(network: nn.Module) -> Iterator[None]:
    """Random states and buffers are as before afterwards; other numbers are drawn meanwhile."""
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    rest = FrozenBatchNorm2d, BATCH_NORMS  # in evaluation mode
    owners = [m for m in network.modules() if not (isinstance(m, rest) and not m.training)]
    buffers = [(m, n, b, b.clone()) for m in owners for n, b in m.named_buffers(recurse=False)]
    states, on_cuda = (random.getstate(), np.random.get_state()), device.type == "cuda"
    generator = torch.cuda.default_generators[device.index] if on_cuda else torch.default_generator
    with torch.random.fork_rng(devices=[device] if on_cuda else []):
        # Masks of dropout are others than those of the training pass.
        generator.manual_seed(zlib.crc32(generator.get_state().numpy()))
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
            for module, name, buffer, before in buffers:
                setattr(module, name, buffer)
                if buffer.shape == before.shape:
                    buffer.data.copy_(before)  # which a pending backward pass does not notice
                else:
                    buffer.data = before


def in_chunks(rois: list[Instances], chunk_size: int) -> Iterator[list[Instances]]:
    """At least one part, each of N ``Instances`` with at most ``chunk_size`` RoIs of N images."""
    starts = list(itertools.accumulate((len(r) for r in rois), initial=0))
    for begin in range(0, max(starts[-1], 1), chunk_size):
        yield [r[max(begin - s, 0) : max(begin + chunk_size - s, 0)] for r, s in zip(rois, starts)]


def by_location(centers: Tensor) -> Tensor:
    """
    The order of RoIs by their centers (R, 2), x and y in pixels, tile of the image by tile:
    neighbours share cells of the feature maps, which a processor then finds in its cache.
    """
    column, row = (centers // TILE).unbind(dim=1)
    return torch.sort(row * _MAX_TILES + column, stable=True).indices


def chunk_size_for(network: nn.Module, feature: Tensor, num_trained: int) -> int:
    """RoIs at a time, pooled from maps such as (N, C, H, W), where so many are trained on."""
    pooler = next((m for m in network.modules() if isinstance(m, ROIPooler)), None)
    if pooler is None:
        return num_trained
    roi_bytes = feature.shape[1] * math.prod(pooler.output_size) * feature.element_size()
    return max(num_trained, _CHUNK_BYTES.get(feature.device.type, 2**25) // roi_bytes)
