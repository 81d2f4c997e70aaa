"""What one selection decided, for whoever looks on."""

import dataclasses
from typing import Protocol

import torch
from detectron2.structures import Boxes, Instances


@dataclasses.dataclass(frozen=True)
class Mining:
    """
    What one selection decided for one image, with all that it knew.

    Attributes:
        image: (3, H, W), as the network sees it: normalized.
        proposals: all that the ROI heads were given; at a later stage of a cascade the boxes that
            reach it. Absolute XYXY pixels of ``image``, like all boxes here.
        target: the ground truth.
        rois: the R candidates, with ``proposal_boxes`` and ``gt_classes``.
        is_foreground: bool of shape (R,).
        losses: "loss_cls" and "loss_box_reg", each of shape (R,).
        ranking: (R,), what the candidates were ranked by.
        survivors: int64, the candidates that the NMS by loss left, hardest first.
        hard: int64, those that were mined, hardest first.
        stage: of a cascade; else 0.
    """

    image: torch.Tensor
    proposals: Boxes
    target: Instances
    rois: Instances
    is_foreground: torch.Tensor
    losses: dict[str, torch.Tensor]
    ranking: torch.Tensor
    survivors: torch.Tensor
    hard: torch.Tensor
    stage: int = 0


class MiningWatcher(Protocol):
    """Looks at what ROI heads mine: assign it to their attribute ``watcher``."""

    def due(self) -> bool:
        """Whether to show it the selections of this iteration."""

    def show(self, mining: Mining) -> None:
        """Called with each selection, for the first image of the batch."""
