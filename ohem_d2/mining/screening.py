"""
Screening: a cheap stand-in for the box head says which RoIs are worth an exact score.
RoIs are pooled to T x T instead of S x S bins, with one sample per bin. The bilinear interpolation
to S x S is folded into the weights of the head's first layer, once per pass.
"""

import copy

import torch
from detectron2.structures import Instances
from torch import Tensor, nn
from torch.nn import functional as F

from .scoring import Score
from .selection import order_by_loss

BINS = 4  # T: the smallest that still finds the hard RoIs


def coarse_scorer(heads: nn.Module, features: dict[str, Tensor]) -> Score:
    """The stand-in for ``score_rois`` of heads for which :func:`can_screen` is true."""
    layers, name, pooler = _layers(heads.box_head), first_linear(heads), heads.box_pooler
    weight = layers.get_parameter(f"{name}.weight")
    weights = {f"{name}.weight": fold_interpolation(weight, pooler.output_size[0], BINS)}
    maps, coarse = [features[f] for f in heads.box_in_features], coarse_pooler(pooler, BINS)
    predictor = heads.box_predictor
    predictor = predictor[0] if isinstance(predictor, nn.ModuleList) else predictor

    def score(rois: list[Instances]) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
        pooled = coarse(maps, [roi.proposal_boxes for roi in rois])
        return predictor, predictor(torch.func.functional_call(layers, weights, (pooled,)))

    return score


def can_screen(heads: nn.Module) -> bool:
    """Whether the box head begins with a linear layer on more than T x T bins of upright RoIs."""
    pooler = heads.box_pooler
    rotated = any("Rotated" in type(part).__name__ for part in pooler.level_poolers)
    return pooler.output_size[0] > BINS and not rotated and first_linear(heads) is not None


def most_promising(rois: list[Instances], ranking: Tensor, num: int) -> list[Instances]:
    """The ``num`` RoIs of each image with the highest ``ranking``, (R,), in their given order."""
    parts = ranking.split(list(map(len, rois)))
    return [roi[order_by_loss(part)[:num].sort().values] for roi, part in zip(rois, parts)]


def coarse_pooler(pooler: nn.Module, bins: int) -> nn.Module:
    """A copy of Detectron2's ``ROIPooler`` with ``bins`` x ``bins`` bins of one sample each."""
    pooler = copy.deepcopy(pooler)  # it has no parameters
    for part in (pooler, *pooler.level_poolers):
        part.output_size = (bins, bins)
        if hasattr(part, "sampling_ratio"):  # RoI max pooling has none
            part.sampling_ratio = 1
    return pooler


def fold_interpolation(weight: Tensor, side: int, bins: int) -> Tensor:
    """
    Fold an interpolation from T x T to S x S into the weight of a linear layer on flattened RoIs:
    from (outputs, C * S * S) to (outputs, C * T * T), for flattened RoIs (R, C, T, T).
    """
    basis = torch.eye(bins * bins, device=weight.device, dtype=weight.dtype)
    basis = basis.view(bins * bins, 1, bins, bins)
    basis = F.interpolate(basis, size=(side, side), mode="bilinear", align_corners=False)
    return (weight.view(-1, side * side) @ basis.view(bins * bins, -1).T).view(len(weight), -1)


def first_linear(heads: nn.Module) -> str | None:
    """The name of the box head's first layer if that is linear, on S x S bins; else None."""
    layers, bins = _layers(heads.box_head), heads.box_pooler.output_size[0] ** 2
    for name, module in layers.named_children() if isinstance(layers, nn.Sequential) else ():
        if type(module) is nn.Linear and "weight" in dict(module.named_parameters()):
            return name if module.in_features % bins == 0 else None
        if not isinstance(module, nn.Flatten):
            break
    return None


def _layers(box_head: nn.Module) -> nn.Module:
    """The layers of the (first) box head, without transparent wrappers."""
    inner = box_head[0] if isinstance(box_head, nn.ModuleList) else box_head
    while not isinstance(inner, nn.Sequential) and len(list(inner.children())) == 1:
        (inner,) = inner.children()
    return inner
