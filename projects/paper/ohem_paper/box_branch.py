"""
What the box branch of ROI heads predicts for given RoIs, outside of training and before NMS.

Feature maps come by name, RoIs as one ``Instances`` with ``proposal_boxes`` for each image.
"""

import functools
from collections.abc import Callable

import torch
from detectron2.modeling.roi_heads import (
    CascadeROIHeads,
    FastRCNNOutputLayers,
    Res5ROIHeads,
    StandardROIHeads,
)
from detectron2.structures import Instances
from torch import nn

from ohem_d2 import OHEMMixin, OHEMRes5ROIHeads

Features = dict[str, torch.Tensor]
# -> the box predictor, and its scores (R, K + 1) and deltas (R, 4 or 4K) of all R RoIs
Predict = Callable[[Features, list[Instances]], tuple[nn.Module, tuple[torch.Tensor, torch.Tensor]]]
# -> of each image class probabilities (R, K + 1), background last, and boxes (R, 4 or 4K)
Scorer = Callable[[Features, list[Instances]], tuple[list[torch.Tensor], list[torch.Tensor]]]


def box_branch(heads: nn.Module, user: str) -> Predict:
    """
    Of Detectron2's or OHEM's standard or C4 heads or some that build on them, or of any with a
    ``score_rois`` such as that of ``OHEMMixin``; no cascade. Raises TypeError, which names the
    ``user``, for heads whose box branch is not known.
    """
    if not isinstance(heads, CascadeROIHeads):
        if hasattr(heads, "score_rois"):
            return heads.score_rois
        if getattr(type(heads), "_forward_box", None) is StandardROIHeads._forward_box:
            return functools.partial(OHEMMixin.score_rois, heads)
        if type(heads).forward is Res5ROIHeads.forward:
            return functools.partial(OHEMRes5ROIHeads.score_rois, heads)
    raise TypeError(
        f"{user} does not know how {type(heads).__name__} scores boxes, which has a box branch of "
        "its own. Give it a method score_rois(features, proposals) such as that of "
        "ohem_d2.OHEMMixin; a cascade has to keep CascadeROIHeads._forward_box()"
    )


def box_scorer(heads: nn.Module, user: str) -> Scorer:
    """
    What detects in given RoIs as :func:`box_branch`'s heads do before NMS, or a cascade with all
    its stages. Raises TypeError for heads whose box branch or predictor is not known.
    """
    for kind in map(type, predictors(heads)):
        if getattr(kind, "inference", None) is not FastRCNNOutputLayers.inference:
            raise TypeError(
                f"{user} take a box predictor that detects as FastRCNNOutputLayers does; "
                f"{type(heads).__name__} has {kind.__name__}, whose inference() is another"
            )
    is_cascade = isinstance(heads, CascadeROIHeads)
    if is_cascade and type(heads)._forward_box is CascadeROIHeads._forward_box:
        return functools.partial(_score_by_cascade, heads)
    predict = box_branch(heads, user)

    def score(features: Features, proposals: list[Instances]):
        predictor, predictions = predict(features, proposals)
        args = predictions, proposals
        return predictor.predict_probs(*args), predictor.predict_boxes(*args)

    return score


def _score_by_cascade(heads: CascadeROIHeads, features: Features, proposals: list[Instances]):
    """Boxes of the last stage, probabilities averaged over the stages."""
    features = [features[f] for f in heads.box_in_features]
    sizes = [p.image_size for p in proposals]
    probs, boxes = [], []
    for stage, predictor in enumerate(heads.box_predictor):
        if stage > 0:
            proposals = heads._create_proposals_from_boxes(boxes, sizes)
        predictions = heads._run_stage(features, proposals, stage)
        probs.append(predictor.predict_probs(predictions, proposals))
        boxes = predictor.predict_boxes(predictions, proposals)
    return [sum(of_image) * (1.0 / len(probs)) for of_image in zip(*probs)], boxes


def predictors(heads: nn.Module) -> list[nn.Module]:
    """One for each stage; the last one has the thresholds of the test."""
    predictor = getattr(heads, "box_predictor", None)
    return list(predictor) if isinstance(predictor, nn.ModuleList) else [predictor]
