"""
For comparison: hard example mining as the most used PyTorch sampler does it, written from its
description and wired into Detectron2's heads.

It differs from the paper: foreground and background are mined apart, with a fixed share of each;
RoIs are ranked by their classification loss alone; there is no NMS. Image by image, the head runs
without gradients once over all foreground and once over all background RoIs.
"""

import torch
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, StandardROIHeads
from torch.nn import functional as F

from ohem_d2.mining.candidates import classes_of


@ROI_HEADS_REGISTRY.register()
class QuotaSamplerHeads(StandardROIHeads):
    """``StandardROIHeads`` whose sampler takes the hardest of each kind instead of random ones."""

    def forward(self, images, features, proposals, targets=None):
        self._features, self._proposals, self._image = features, proposals, 0
        self._targets = targets
        try:
            return super().forward(images, features, proposals, targets)
        finally:
            del self._features, self._proposals, self._targets

    @torch.no_grad()
    def _sample_proposals(self, matched_idxs, matched_labels, gt_classes):
        image = self._image
        self._image += 1
        boxes = self._proposals[image].proposal_boxes
        if self.proposal_append_gt:
            boxes = type(boxes).cat([boxes, self._targets[image].gt_boxes])
        features = [self._features[f][image : image + 1] for f in self.box_in_features]
        classes = classes_of(matched_idxs, matched_labels, gt_classes, self.num_classes)

        def hardest(label: int, num: int) -> torch.Tensor:
            candidates = torch.nonzero(matched_labels == label).squeeze(1)
            if len(candidates) <= num:
                return candidates
            pooled = self.box_pooler(features, [boxes[candidates]])
            scores, _ = self.box_predictor(self.box_head(pooled))
            loss = F.cross_entropy(scores, classes[candidates], reduction="none")
            return candidates[loss.topk(num).indices]

        foreground = hardest(1, int(self.batch_size_per_image * self.positive_fraction))
        background = hardest(0, self.batch_size_per_image - len(foreground))
        chosen = torch.cat([foreground, background])
        return chosen, classes[chosen]
