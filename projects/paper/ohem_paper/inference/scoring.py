"""What ROI heads detect in given RoIs, before NMS."""

import functools
from collections.abc import Callable

import torch
from detectron2.modeling.roi_heads import CascadeROIHeads, FastRCNNOutputLayers
from detectron2.structures import Boxes, Instances
from torch import nn

from ..box_branch import box_branch

# What scores and regresses RoIs: feature maps by name and RoIs, one Instances for each image ->
# for each image class probabilities (R, K + 1), background last, and boxes (R, 4 or 4K).
Scorer = Callable[
    [dict[str, torch.Tensor], list[Instances]], tuple[list[torch.Tensor], list[torch.Tensor]]
]


def box_scorer(heads: nn.Module) -> Scorer:
    """
    What gives the class probabilities and regressed boxes of given RoIs, as the box branch of
    these ROI heads does in evaluation before NMS. A cascade runs all its stages.

    Raises:
        TypeError: for heads whose box branch is not known.
    """
    name = type(heads).__name__
    for predictor in predictors(heads):
        inference = getattr(type(predictor), "inference", None)
        if inference is not FastRCNNOutputLayers.inference:
            raise TypeError(
                f"TEST.MULTI_SCALE and TEST.BOX_VOTING take a box predictor that detects as "
                f"FastRCNNOutputLayers does; {name} has {type(predictor).__name__}, whose "
                "inference() is another"
            )
    if isinstance(heads, CascadeROIHeads) and (
        type(heads)._forward_box is CascadeROIHeads._forward_box
    ):
        return functools.partial(_score_by_cascade, heads)
    predict = box_branch(heads, "TEST.MULTI_SCALE and TEST.BOX_VOTING")
    return functools.partial(_score_once, predict)


def _score_once(predict: Callable, features, proposals):
    predictor, predictions = predict(features, proposals)
    return (
        predictor.predict_probs(predictions, proposals),
        predictor.predict_boxes(predictions, proposals),
    )


def _score_by_cascade(heads: CascadeROIHeads, features, proposals):
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


def usable(
    probs: torch.Tensor, boxes: torch.Tensor, image_size: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    From a predictor's (R, K + 1) and (R, 4B) to scores (R, K) without background and boxes
    (R, B, 4) within the image. As in Detectron2, a RoI with any prediction that is not finite is
    no detection: its scores are NaN here.
    """
    broken = ~(torch.isfinite(boxes).all(dim=1) & torch.isfinite(probs).all(dim=1))[:, None]
    clipped = Boxes(boxes.masked_fill(broken, 0.0).reshape(-1, 4))
    clipped.clip(image_size)
    scores = probs[:, :-1].masked_fill(broken, float("nan"))
    return scores, clipped.tensor.view(len(boxes), boxes.shape[1] // 4, 4)


def predictors(heads: nn.Module) -> list[nn.Module]:
    """One for each stage; the last one has the thresholds of the test."""
    predictor = getattr(heads, "box_predictor", None)
    return list(predictor) if isinstance(predictor, nn.ModuleList) else [predictor]
