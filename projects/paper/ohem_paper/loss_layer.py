"""
The way to mine that the paper rejects (Sec. 4.2): modify the loss layer. All candidates pass
through the training pass, and only the hard ones have a loss. The gradients are those of OHEM; time
and memory are those of a step on all RoIs.
"""

import itertools
from typing import Any

import torch
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.structures import Instances
from torch import Tensor, nn

from ohem_d2 import OHEMROIHeads
from ohem_d2.mining.candidates import candidates
from ohem_d2.mining.losses import losses_to_rank_by
from ohem_d2.mining.scoring import by_location, read_only
from ohem_d2.tools.errors import InputError


@ROI_HEADS_REGISTRY.register()
class LossLayerROIHeads(OHEMROIHeads):
    """
    ``mine`` lets all candidates through. ``select`` chooses after the box predictor, and there the
    easy ones leave the training pass. The keys of the read-only pass have no effect.
    """

    #: all candidates, in the list that the parent's ``forward`` holds; all labelled RoIs; targets
    _undecided: tuple | None = None

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.ohem.screening > 0:
            key, name = "MODEL.ROI_HEADS.OHEM.SCREENING", type(self).__name__
            raise InputError(f"{key} takes a read-only pass, which {name} lacks; allowed: 0")

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().forward(*args, **kwargs)
        finally:
            self._undecided = None

    def mine(self, rois: list[Instances], targets: list[Instances]) -> list[Instances]:
        """All candidates of all labelled RoIs."""
        self._undecided = rois, targets
        keep = candidates(rois, targets, self.num_classes, self.ohem.ignore_ioa_thresh)
        kept = [roi[index] for roi, index in zip(rois, keep)]
        # in OHEM's order, so that equal losses are ranked as there
        return [roi[by_location(roi.proposal_boxes.get_centers())] for roi in kept]

    def label_and_sample_proposals(self, *args: Any, **kwargs: Any) -> list[Instances]:
        rois = super().label_and_sample_proposals(*args, **kwargs)
        if self._undecided is not None:  # it mines
            self._undecided = rois, *self._undecided
        return rois

    def _forward_box(self, features: dict[str, Tensor], proposals: list[Instances]) -> Any:
        with self.box_predictor.register_forward_hook(self._cut):
            return super()._forward_box(features, proposals)

    def _cut(self, predictor: nn.Module, _: Any, predictions: tuple[Tensor, ...]) -> Any:
        """
        Keep the predictions for the hard RoIs, of those for all candidates, (R, ...), and cut the
        parent's list of RoIs likewise. Keep all in the warm-up and in evaluation.
        """
        if self._undecided is None:
            return predictions
        (kept, rois, targets), self._undecided = self._undecided, None
        with torch.no_grad():
            with read_only(self):
                losses = losses_to_rank_by(predictor, predictions, kept)
            mining = self.select(losses, kept, rois, targets)
            self._call.ranked.append({name: loss[mining.hard] for name, loss in losses.items()})
            starts = itertools.accumulate(map(len, kept), initial=0)
            rows = torch.cat([x + start for x, start in zip(mining.hard_of_image, starts)])
            kept[:] = [roi[index] for roi, index in zip(kept, mining.hard_of_image)]
        return tuple(x[rows] for x in predictions)
