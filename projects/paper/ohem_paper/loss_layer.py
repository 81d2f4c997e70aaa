"""
The way to mine that the paper rejects (Sec. 4.2): modify the loss layer. All candidates pass
through the training pass, and only the hard ones have a loss. The gradients are those of OHEM; time
and memory are those of a step on all RoIs.
"""

import itertools
from collections.abc import Callable
from typing import Any

import torch
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.structures import Instances
from torch import Tensor, nn

from ohem_d2 import OHEMCascadeROIHeads, OHEMMixin, OHEMRes5ROIHeads, OHEMROIHeads
from ohem_d2.mining.candidates import candidates
from ohem_d2.mining.losses import losses_to_rank_by
from ohem_d2.mining.scoring import by_location, read_only
from ohem_d2.tools.errors import InputError


class LossLayerMixin(OHEMMixin):
    """
    ``mine`` lets all candidates through. Heads call :meth:`hard_rows_of` where the easy ones leave
    the training pass, which is where ``select`` chooses. The keys of the read-only pass do nothing.
    """

    #: all candidates, in the list that the parent's ``forward`` holds; all labelled RoIs; targets
    _undecided: tuple | None = None

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.ohem.screening > 0 or self.ohem.cascade_stages != "first":
            keys = "MODEL.ROI_HEADS.OHEM.SCREENING, and CASCADE_STAGES 'all',"
            raise InputError(f"{keys} take a read-only pass, which {type(self).__name__} have not")

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

    def hard_rows_of(
        self, output: Tensor | tuple[Tensor, ...], predict: Callable[[Any], tuple[nn.Module, Any]]
    ) -> Any:
        """
        The rows of the hard RoIs of a part's output for all candidates, (R, ...), from which
        ``predict`` makes the box predictor and its predictions; the list of RoIs that the parent
        holds is cut down likewise. All rows in a warm-up, in evaluation, and once all is chosen.
        """
        if self._undecided is None:
            return output
        (kept, rois, targets), self._undecided = self._undecided, None
        with torch.no_grad():
            with read_only(self):
                losses = losses_to_rank_by(*predict(output), kept)
            mining = self.select(losses, kept, rois, targets)
            self._call.ranked.append({name: loss[mining.hard] for name, loss in losses.items()})
            starts = itertools.accumulate(map(len, kept), initial=0)
            rows = torch.cat([x + start for x, start in zip(mining.hard_of_image, starts)])
            kept[:] = [roi[index] for roi, index in zip(kept, mining.hard_of_image)]
        return output[rows] if isinstance(output, Tensor) else tuple(x[rows] for x in output)


@ROI_HEADS_REGISTRY.register()
class LossLayerROIHeads(LossLayerMixin, OHEMROIHeads):
    """``OHEMROIHeads`` with the loss layer."""

    def _forward_box(self, features, proposals):
        def cut(predictor, inputs, predictions):
            return self.hard_rows_of(predictions, lambda all_rows: (predictor, all_rows))

        with self.box_predictor.register_forward_hook(cut):
            return super()._forward_box(features, proposals)


@ROI_HEADS_REGISTRY.register()
class LossLayerCascadeROIHeads(LossLayerMixin, OHEMCascadeROIHeads):
    """``OHEMCascadeROIHeads`` with the loss layer in the first stage."""

    def _run_stage(self, features, proposals, stage):
        predictions = super()._run_stage(features, proposals, stage)
        return self.hard_rows_of(predictions, lambda x: (self.box_predictor[stage], x))


@ROI_HEADS_REGISTRY.register()
class LossLayerRes5ROIHeads(LossLayerMixin, OHEMRes5ROIHeads):
    """``OHEMRes5ROIHeads`` with the loss layer. The mask head goes on with the output of res5."""

    def _shared_roi_transform(self, features, boxes):
        def predict(x):
            return self.box_predictor, self.box_predictor(x.mean(dim=[2, 3]))

        return self.hard_rows_of(super()._shared_roi_transform(features, boxes), predict)
