"""
Screening: which RoIs are worth an exact score? A stand-in for the box head that costs a fraction.

RoIs are pooled to fewer bins with one sample each. What the first layer of the head would give on
their bilinear interpolation is folded into its weights, once for each read-only pass, see
docs/benchmark.md.

Shape shorthand: R RoIs, C channels of a pooled RoI; S bins along a side of a RoI as the head has
them, T as the screening pools them.
"""

import copy
from collections.abc import Callable, Sequence

import torch
from detectron2.structures import Instances
from torch import nn
from torch.nn import functional as F

from .wrappers import unwrapped

# T: on the project's data it has the lowest cost of those that find the hard RoIs, see
# docs/benchmark.md.
BINS = 4


def coarse_pooler(pooler: nn.Module, bins: int) -> nn.Module:
    """A copy of Detectron2's ``ROIPooler`` with ``bins`` x ``bins`` bins of one sample each."""
    pooler = copy.deepcopy(pooler)  # it has no parameters
    for part in (pooler, *pooler.level_poolers):
        part.output_size = (bins, bins)
        if hasattr(part, "sampling_ratio"):  # RoI max pooling has none
            part.sampling_ratio = 1
    return pooler


def fold_interpolation(weight: torch.Tensor, side: int, bins: int) -> torch.Tensor:
    """
    Of the weight of a linear layer on flattened RoIs, (outputs, C * S * S): the weight, of shape
    (outputs, C * T * T), that gives for RoIs of shape (R, C, T, T) what this gives for their
    bilinear interpolation to (R, C, S, S).
    """
    basis = torch.eye(bins * bins, device=weight.device, dtype=weight.dtype)
    basis = basis.view(bins * bins, 1, bins, bins)
    basis = F.interpolate(basis, size=(side, side), mode="bilinear", align_corners=False)
    return (weight.view(-1, side * side) @ basis.view(bins * bins, -1).T).view(len(weight), -1)


def first_linear(box_head: nn.Module, side: int) -> str | None:
    """
    The name of the layer that the interpolation can be folded into: what a sequence of layers
    begins with after flattening, if that is linear on RoIs of S x S bins; else None.
    """
    box_head = _layers(box_head)
    if not isinstance(box_head, nn.Sequential):
        return None
    for name, module in box_head.named_children():
        if type(module) is nn.Linear and "weight" in dict(module.named_parameters()):
            return name if module.in_features % (side * side) == 0 else None
        if not isinstance(module, nn.Flatten):
            return None
    return None


def can_fold(pooler: nn.Module, box_head: nn.Module) -> bool:
    """Whether coarser pooling pays and the head's first layer can take it."""
    side = pooler.output_size[0]
    return side > BINS and first_linear(box_head, side) is not None


def coarse_head(
    box_head: nn.Module, side: int, bins: int
) -> Callable[[torch.Tensor], torch.Tensor]:
    """
    A box head that has a :func:`first_linear` on S x S bins, as a function of RoIs pooled to T x T,
    of shape (R, C, T, T).
    """
    box_head, name = _layers(box_head), first_linear(box_head, side)
    weight = box_head.get_parameter(f"{name}.weight")
    weights = {f"{name}.weight": fold_interpolation(weight, side, bins)}
    return lambda pooled: torch.func.functional_call(box_head, weights, (pooled,))


def coarse_scorer(
    pooler: nn.Module, box_head: nn.Module, box_predictor: nn.Module, maps: Sequence[torch.Tensor]
) -> Callable[[list[Instances]], tuple[nn.Module, tuple[torch.Tensor, torch.Tensor]]]:
    """
    A stand-in for scoring with a branch that :func:`can_fold` holds for, on feature maps as the
    pooler takes them: from RoIs to the predictor and its predictions.
    """
    head = coarse_head(box_head, pooler.output_size[0], BINS)
    pooler = coarse_pooler(pooler, BINS)

    def score(rois: list[Instances]) -> tuple[nn.Module, tuple[torch.Tensor, torch.Tensor]]:
        pooled = pooler(list(maps), [roi.proposal_boxes for roi in rois])
        return box_predictor, box_predictor(head(pooled))

    return score


def _layers(box_head: nn.Module) -> nn.Module:
    return unwrapped(box_head, lambda module: isinstance(module, nn.Sequential))
