"""
Online hard example mining (paper Sec. 4): of all RoIs to the hard ones that are trained on.

Candidates, their losses in a read-only pass, the ranking, NMS by loss, the budget: in this order.
"""

import dataclasses
from collections.abc import Sequence

import torch
from detectron2.structures import Instances
from torch.profiler import record_function

from ..config import OHEMSettings
from . import labelling, selection
from .record import Record
from .scoring import Scorer


@dataclasses.dataclass(frozen=True)
class Miner:
    """
    Attributes:
        settings: the keys of OHEM.
        num_samples: B/N of the paper, the budget of an image.
        num_classes: K, the class of background.
        batched_nms: NMS of other boxes, see :func:`ohem_d2.mining.selection.nms_by_loss`.
    """

    settings: OHEMSettings
    num_samples: int
    num_classes: int
    batched_nms: selection.BatchedNMS | None = None

    def mine(
        self, scorer: Scorer, rois: Sequence[Instances], targets: Sequence[Instances]
    ) -> Record:
        """
        Args:
            scorer: how the ROI heads score RoIs.
            rois: all RoIs of each image, labelled: ``proposal_boxes`` and ``gt_boxes`` in absolute
                XYXY pixels, ``gt_classes`` in [-1, K].
            targets: the ground truth of each image.
        """
        rois = self.candidates(rois, targets)
        if self.settings.screening > 0:
            with record_function("ohem/screen"):
                ranking = self.rank(scorer.losses(rois, coarse=True))
                most = round(self.settings.screening * self.num_samples)
                parts = ranking.split([len(roi) for roi in rois])
                rois = [r[selection.order_by_loss(part)[:most]] for r, part in zip(rois, parts)]
        return self.select(rois, scorer.losses(rois))

    def candidates(
        self, rois: Sequence[Instances], targets: Sequence[Instances]
    ) -> list[Instances]:
        """Those of each image that may be mined."""
        kept = labelling.candidates(rois, targets, self.num_classes, self.settings)
        return [roi[index] for roi, index in zip(rois, kept)]

    def rank(self, losses: dict[str, torch.Tensor]) -> torch.Tensor:
        """
        The loss (R,) that RoIs are ranked by: classification plus localization (paper Sec. 4.1),
        each with its weight. A weight of 0 leaves a loss out even if it is NaN.
        """
        weights = {
            "loss_cls": self.settings.rank_cls_weight,
            "loss_box_reg": self.settings.rank_loc_weight,
        }
        return sum(weight * losses[name] for name, weight in weights.items() if weight > 0)

    def select(self, rois: Sequence[Instances], losses: dict[str, torch.Tensor]) -> Record:
        """The second half of :meth:`mine`, for candidates whose losses (R,) are known."""
        sizes = [len(roi) for roi in rois]
        boxes = torch.cat([roi.proposal_boxes.tensor for roi in rois])
        gt_classes = torch.cat([roi.gt_classes for roi in rois])
        image_index = selection.image_of_each(sizes, boxes.device)
        is_foreground = gt_classes < self.num_classes
        ranking = self.rank(losses)
        survivors, chosen = selection.hardest(
            ranking,
            boxes,
            gt_classes,
            image_index,
            num_images=len(rois),
            num_samples=self.num_samples,
            nms_thresh=self.settings.nms_thresh,
            nms_scope=self.settings.nms_scope,
            budget=self.settings.budget,
            batched_nms=self.batched_nms,
        )
        hard = selection.split_by_image(chosen, image_index, sizes)
        return Record(
            list(rois), image_index, is_foreground, losses, ranking, survivors, chosen, hard
        )
