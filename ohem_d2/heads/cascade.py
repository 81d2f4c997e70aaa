"""OHEM for Cascade R-CNN."""

import inspect
from typing import Any

import torch
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, CascadeROIHeads
from detectron2.structures import Instances
from torch import nn

from ..mining.losses import CannotMine
from ..mining.quiet import QuietStorage
from ..monitor.scalars import COUNTS
from .loss_layer import LossLayerMixin


@ROI_HEADS_REGISTRY.register()
class OHEMCascadeROIHeads(LossLayerMixin, CascadeROIHeads):
    """
    ``CascadeROIHeads`` with OHEM. With CASCADE_STAGES "all", the read-only pass refines all RoIs,
    stage after stage, and each stage trains on the hard ones among those that reach it.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        """Raises CannotMine also if "all" cannot be had with the stages of a subclass."""
        super().__init__(*args, **kwargs)
        parameters = inspect.signature(self._create_proposals_from_boxes).parameters.values()
        needed = [p.name for p in parameters if p.default is p.empty][2:]
        if self.ohem.cascade_stages == "all" and needed:
            raise CannotMine(
                f"MODEL.ROI_HEADS.OHEM.CASCADE_STAGES = 'all' refines all RoIs by their boxes, and "
                f"{type(self).__name__}._create_proposals_from_boxes() takes {', '.join(needed)} "
                "as well; allowed: 'first'"
            )

    def score_rois(
        self, features: dict[str, torch.Tensor], proposals: list[Instances], stage: int = 0
    ) -> tuple[nn.Module, Any]:
        maps = [features[f] for f in self.box_in_features]
        return self.box_predictor[stage], self._run_stage(maps, proposals, stage)

    def screened_branch(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        return self.box_pooler, self.box_head[0], self.box_predictor[0]

    def look_at_scores(self, predictor: nn.Module, predictions: Any, proposals: list) -> None:
        """Keep the boxes that the next stage begins with, by image."""
        if self.ohem.cascade_stages == "all":
            refined = self._call.state.setdefault("refined", [])
            refined.append(predictor.predict_boxes(predictions, proposals))

    @torch.no_grad()
    def _match_and_label_boxes(self, proposals, stage, targets):
        call = self._call
        refined = call.state.pop("refined", None) if call is not None else None
        # None: "first", a warm-up, or heads that do not train
        if refined is None or call.repeats is not None:
            return super()._match_and_label_boxes(proposals, stage, targets)
        boxes = [torch.cat(chunks) for chunks in zip(*refined)]
        # A RoI whose loss is not finite may have no box either; the parent refuses such boxes.
        boxes = [b[torch.isfinite(b).all(dim=1)] for b in boxes]
        rois = self._create_proposals_from_boxes(boxes, [p.image_size for p in proposals])
        with QuietStorage(only=COUNTS):
            rois = super()._match_and_label_boxes(rois, stage, targets)
        return self.to_be_cut_down(self.choose_rois(rois, targets, stage))

    def prefix_of_scalars(self, stage: int) -> str:
        return f"stage{stage}/" if self.ohem.cascade_stages == "all" else ""
