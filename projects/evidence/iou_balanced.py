"""
For comparison: IoU-balanced sampling (Pang et al., "Libra R-CNN", CVPR 2019, Sec. 3.1), written
from the paper. Background that overlaps an object is rare among all background and hard; so the
background of a sample is drawn in equal parts from intervals of the IoU.
"""

import torch
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, StandardROIHeads
from detectron2.structures import Instances, pairwise_iou

from ohem_d2.mining.candidates import labels_of_all

BINS = 3  # as in the paper


@ROI_HEADS_REGISTRY.register()
class IoUBalancedHeads(StandardROIHeads):
    """``StandardROIHeads`` whose random background is balanced over its IoU with the objects."""

    def label_and_sample_proposals(
        self, proposals: list[Instances], targets: list[Instances]
    ) -> list[Instances]:
        self._images = iter(zip(proposals, targets))
        return super().label_and_sample_proposals(proposals, targets)

    def _sample_proposals(
        self, matched_idxs: torch.Tensor, matched_labels: torch.Tensor, gt_classes: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        proposals, target = next(self._images)
        boxes = proposals.proposal_boxes
        if self.proposal_append_gt:
            boxes = type(boxes).cat([boxes, target.gt_boxes])
        iou = matched_labels.new_zeros(len(boxes), dtype=torch.float32)
        if len(target) > 0:
            iou = pairwise_iou(target.gt_boxes, boxes).amax(dim=0)
        background, foreground = (torch.nonzero(matched_labels == x).squeeze(1) for x in (0, 1))
        foreground = drawn(foreground, int(self.batch_size_per_image * self.positive_fraction))
        num = self.batch_size_per_image - len(foreground)
        chosen = torch.cat([foreground, background[balanced(iou[background], num)]])
        classes = labels_of_all(matched_idxs, matched_labels, gt_classes, self.num_classes)
        return chosen, classes[chosen]


def balanced(iou: torch.Tensor, num: int) -> torch.Tensor:
    """
    A random sample in equal parts from equal intervals of the IoU, (R,), from 0 to the highest
    there is; what an interval lacks is drawn from the rest. int64 indices, (min(num, R),).
    """
    if len(iou) == 0:
        return torch.zeros_like(iou, dtype=torch.int64)
    interval = (iou / iou.max().clamp(min=1e-6) * BINS).long().clamp(max=BINS - 1)
    parts = [drawn(torch.nonzero(interval == i).squeeze(1), num // BINS) for i in range(BINS)]
    chosen = torch.cat(parts)
    rest = torch.ones_like(iou, dtype=torch.bool)
    rest[chosen] = False
    return torch.cat([chosen, drawn(torch.nonzero(rest).squeeze(1), num - len(chosen))])


def drawn(indices: torch.Tensor, num: int) -> torch.Tensor:
    """So many of them at random, or all."""
    return indices[torch.randperm(len(indices), device=indices.device)[:num]]
