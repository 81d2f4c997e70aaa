"""What one selection decided, for whoever looks on."""

import dataclasses
from typing import Protocol

import torch
from detectron2.structures import Boxes, Instances


@dataclasses.dataclass(frozen=True)
class Record:
    """
    One selection among R candidates of N images; places are among the candidates of all images.

    Attributes:
        rois: the candidates of each image, with ``proposal_boxes`` and ``gt_classes``.
        image_index: int64 of shape (R,).
        is_foreground: bool of shape (R,).
        losses: "loss_cls" and "loss_box_reg", each of shape (R,).
        ranking: (R,), what the candidates were ranked by.
        survivors: int64, places of those that the NMS by loss left, hardest first.
        chosen: int64, places of those that were mined, hardest first.
        hard: the same for each image, as indices into its candidates.
    """

    rois: list[Instances]
    image_index: torch.Tensor
    is_foreground: torch.Tensor
    losses: dict[str, torch.Tensor]
    ranking: torch.Tensor
    survivors: torch.Tensor
    chosen: torch.Tensor
    hard: list[torch.Tensor]

    def mined(self) -> list[Instances]:
        """The hard RoIs of each image, hardest first."""
        return [roi[index] for roi, index in zip(self.rois, self.hard)]


@dataclasses.dataclass(frozen=True)
class Mining:
    """
    What one selection decided for one image, with all that it knew.

    Attributes:
        image: (3, H, W), as the network sees it: normalized.
        proposals: all that the ROI heads were given; at a later stage of a cascade the boxes that
            reach it. Absolute XYXY pixels of ``image``, like all boxes here.
        target: the ground truth.
        rois, is_foreground, losses, ranking, survivors, hard: of a :class:`Record`, the image's
            own; places are among its R candidates.
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

    @classmethod
    def of_first_image(
        cls, record: Record, image: torch.Tensor, proposals: Boxes, target: Instances, stage: int
    ) -> "Mining":
        """The first image's part of a selection: Detectron2, too, draws that one of a batch."""
        size = len(record.rois[0])
        return cls(
            image=image,
            proposals=proposals,
            target=target,
            rois=record.rois[0],
            is_foreground=record.is_foreground[:size],
            losses={name: loss[:size] for name, loss in record.losses.items()},
            ranking=record.ranking[:size],
            survivors=record.survivors[record.survivors < size],
            hard=record.hard[0],
            stage=stage,
        )


class MiningWatcher(Protocol):
    """Looks at what ROI heads mine: assign it to their attribute ``watcher``."""

    def due(self) -> bool:
        """Whether to show it the selections of this iteration."""

    def show(self, mining: Mining) -> None:
        """Called with each selection, for the first image of the batch."""
