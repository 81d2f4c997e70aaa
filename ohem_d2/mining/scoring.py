"""The read-only pass: run a network over all RoIs, chunk by chunk, and leave no trace in it."""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Instances
from torch import nn
from torch.profiler import record_function

from .losses import losses_to_rank_by
from .quiet import QuietStorage

# RoIs, one ``Instances`` for each image -> box predictor, its predictions
Score = Callable[[list[Instances]], tuple[nn.Module, Any]]

# Of the pooled RoIs of a chunk with CHUNK_SIZE 0, unless more are trained on at a time anyway. On a
# GPU, where every chunk makes the host wait, that is 4,000 RoIs of an FPN head in float32.
_CHUNK_BYTES = {"cpu": 32 * 2**20, "cuda": 200 * 2**20}

# Pixels of a side, and more than there are in a row. Smaller ones were no faster.
TILE, _MAX_TILES = 128, 2**12

_DROPOUTS = nn.modules.dropout._DropoutNd
_BATCH_NORMS = nn.modules.batchnorm._BatchNorm


def read_only(
    network: nn.Module, *, seed: int | None = None, precision: torch.dtype | None = None
) -> contextlib.AbstractContextManager:
    """
    Within the context the network can be run without leaving a trace: no gradient is recorded, no
    statistic of a normalization is updated, no event is logged, no random state moves, and
    autocast remembers none of the casts.

    The network is in evaluation mode, so batch normalization takes its running statistics and a
    RoI's result does not depend on the others in its chunk. Dropout is the exception that the
    authors' release makes.

    Args:
        network: what is going to be run, or a parent of it.
        seed: dropout layers that are active in training are active here, with masks drawn from
            this seed; None: they rest.
        precision: of autocast; None leaves autocast as it is.
    """
    active = () if seed is None else _DROPOUTS
    resting = [m for m in network.modules() if m.training and not isinstance(m, active)]
    return _no_trace(network, resting, seed or 0, precision)


def in_training_mode(network: nn.Module, seed: int = 0) -> contextlib.AbstractContextManager:
    """
    As :func:`read_only`, but in training mode, except for what makes a result depend on chance or
    on the batch: dropout and batch normalization. Other layers draw from the seed.
    """
    return _no_trace(network, depending_on_chance(network), seed, None)


def depending_on_chance(network: nn.Module) -> list[nn.Module]:
    """Dropout and batch normalization, where they are active."""
    layers = (_DROPOUTS, _BATCH_NORMS)
    return [m for m in network.modules() if m.training and isinstance(m, layers)]


@contextlib.contextmanager
def _no_trace(
    network: nn.Module, resting: list[nn.Module], seed: int, precision: torch.dtype | None
) -> Iterator[None]:
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    on_cuda = device.type == "cuda"
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(QuietStorage())
        stack.enter_context(torch.random.fork_rng(devices=[device] if on_cuda else []))
        torch.default_generator.manual_seed(seed)
        if on_cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        # A parameter cast without gradients would be taken from the cache by the training pass
        # in the same autocast region, which then would not reach the parameter.
        stack.callback(torch.set_autocast_cache_enabled, torch.is_autocast_cache_enabled())
        torch.set_autocast_cache_enabled(False)
        if precision is not None:
            stack.enter_context(torch.autocast(device.type, dtype=precision))
        for module in resting:
            module.training = False
            stack.callback(setattr, module, "training", True)
        yield


def in_chunks(proposals: list[Instances], chunk_size: int) -> Iterator[list[Instances]]:
    """
    Split the RoIs of N images into parts of at most ``chunk_size`` RoIs, in their order. Each again
    has N ``Instances``, as poolers expect, most of them empty. There is at least one part, so that
    a network is also called if there is no RoI.
    """
    starts = list(itertools.accumulate((len(p) for p in proposals), initial=0))
    for begin in range(0, max(starts[-1], 1), chunk_size):
        yield [
            p[max(begin - start, 0) : max(begin + chunk_size - start, 0)]
            for p, start in zip(proposals, starts)
        ]


def by_location(centers: torch.Tensor) -> torch.Tensor:
    """
    RoIs of an image in the order of their centers, tile of the image by tile. Neighbours share
    cells of the feature maps. Pooled one after another, they find them in the processor's cache,
    where proposals in the order of an RPN's scores jump about the maps. Centers, (R, 2), are x and
    y in absolute pixels; int64 indices of shape (R,).
    """
    column, row = (centers // TILE).unbind(dim=1)
    return torch.sort(row * _MAX_TILES + column, stable=True).indices


def automatic_chunk_size(network: nn.Module, feature: torch.Tensor, num_trained: int) -> int:
    """
    For a network that pools RoIs, from maps such as ``feature`` of shape (N, C, H, W), and trains
    on so many at a time.
    """
    pooler = next((m for m in network.modules() if isinstance(m, ROIPooler)), None)
    if pooler is None:
        return num_trained
    height, width = pooler.output_size
    roi_bytes = feature.shape[1] * height * width * feature.element_size()
    most = _CHUNK_BYTES.get(feature.device.type, _CHUNK_BYTES["cpu"])
    return max(num_trained, most // roi_bytes)


@dataclasses.dataclass(frozen=True)
class Scorer:
    """
    What ROI heads hand to the miner: how to score RoIs.

    Attributes:
        network: what is run, or a parent of it.
        score: the network's predictions for RoIs.
        coarse_score: a cheap stand-in for ``score``, for SCREENING.
        chunk_size: RoIs at a time.
        seed, precision: see :func:`read_only`.
        look: is shown the predictions for each chunk: box predictor, predictions, RoIs.
        agreed: from the number of passes over the network that the RoIs of this process take to
            the number that all processes make. Where parameters are sharded, each pass is one for
            all of them.
    """

    network: nn.Module
    score: Score
    coarse_score: Score | None = None
    chunk_size: int = 2**30
    seed: int | None = None
    precision: torch.dtype | None = None
    look: Callable[[nn.Module, Any, list[Instances]], None] | None = None
    agreed: Callable[[int], int] = int

    def losses(self, rois: list[Instances], coarse: bool = False) -> dict[str, torch.Tensor]:
        """
        Args:
            rois: labelled, see :func:`ohem_d2.per_roi_losses`; R in all.
            coarse: by the stand-in; without dropout, so that chance has no part.

        Returns:
            the losses that they are ranked by, each float32 of shape (R,). Without dropout they
            do not depend on the chunks.
        """
        score, seed = (self.coarse_score, None) if coarse else (self.score, self.seed)
        orders = [by_location(roi.proposal_boxes.get_centers()) for roi in rois]
        rois = [roi[order] for roi, order in zip(rois, orders)]
        chunks = list(in_chunks(rois, self.chunk_size))
        num_idle = self.agreed(len(chunks)) - len(chunks)
        losses = []
        with read_only(self.network, seed=seed, precision=self.precision):
            for chunk in chunks:
                predictor, predictions = score(chunk)
                if self.look is not None and not coarse:
                    self.look(predictor, predictions, chunk)
                with record_function("ohem/loss"):
                    losses.append(losses_to_rank_by(predictor, predictions, chunk))
            for _ in range(num_idle):
                score([roi[:0] for roi in rois])
        starts = itertools.accumulate((len(order) for order in orders), initial=0)
        place = torch.cat([order + start for order, start in zip(orders, starts)])
        ordered = {name: torch.cat([part[name] for part in losses]) for name in losses[0]}
        return {n: torch.empty_like(x).index_copy_(0, place, x) for n, x in ordered.items()}
