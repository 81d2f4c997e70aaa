"""How OHEM heads score RoIs: what their authors override, and what the miner is handed."""

from typing import Any

import torch
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage
from torch import nn

from ..compat import in_backward
from ..mining.scoring import Scorer, automatic_chunk_size
from ..mining.screening import coarse_scorer
from .parallel import agreed_number, sharded_parts
from .training_call import TrainingCall


class Scored:
    """The part of ``OHEMMixin`` that scores RoIs, for heads as ``StandardROIHeads``."""

    # the last iteration that was scored in, and how many passes came before in it
    _last_pass = (-1, 0)

    def score_rois(
        self, features: dict[str, torch.Tensor], proposals: list[Instances], stage: int = 0
    ) -> tuple[nn.Module, Any]:
        """
        Predict for RoIs as the training pass does. Heads with another structure override this; an
        override is also given those further arguments of their ``forward`` that it names.

        Args:
            features: feature maps by name, as the parent's ``forward`` has them.
            proposals: one for each image, labelled; R RoIs in all. While scoring these are a chunk
                of the RoIs, in an order of their places in the image.
            stage: of a cascade; else 0.

        Returns:
            the box predictor and its predictions: of ``FastRCNNOutputLayers`` scores (R, K + 1) and
            deltas (R, 4 or 4K), of others what their ``per_roi_losses`` takes.
        """
        box_features = self.box_pooler(
            [features[f] for f in self.box_in_features], [p.proposal_boxes for p in proposals]
        )
        return self.box_predictor, self.box_predictor(self.box_head(box_features))

    def screened_branch(self) -> tuple[nn.Module, nn.Module, nn.Module] | None:
        """
        Only for SCREENING: pooler, head and predictor whose forward, in this order, is what
        :meth:`score_rois` does. None: these heads cannot be screened.
        """
        if type(self).score_rois is Scored.score_rois:
            return self.box_pooler, self.box_head, self.box_predictor
        return None

    def look_at_scores(
        self, predictor: nn.Module, predictions: Any, proposals: list[Instances]
    ) -> None:
        """For heads that need more of the read-only pass than losses. Called for each chunk."""

    def scorer(self, call: TrainingCall, num_images: int, stage: int = 0) -> Scorer:
        """What the miner scores the RoIs of this call with."""
        settings, features = self.ohem, call.features
        extras = call.extras_for(self.score_rois)
        coarse_score = None
        if settings.screening > 0:
            if parts := sharded_parts(self):
                raise ValueError(
                    f"MODEL.ROI_HEADS.OHEM.SCREENING = {settings.screening} folds the weights of "
                    f"the box head, and {', '.join(parts)} of {type(self).__name__} is sharded; "
                    "allowed: 0.0, or shard the heads as a whole"
                )
            maps = [features[f] for f in self.box_in_features]
            coarse_score = coarse_scorer(*self.screened_branch(), maps)
        chunk_size = settings.chunk_size or automatic_chunk_size(
            self, next(iter(features.values())), self.batch_size_per_image * num_images
        )
        seed = self._seed(stage)
        return Scorer(
            self,
            lambda rois: self.score_rois(features, rois, stage, **extras),
            coarse_score,
            chunk_size=chunk_size,
            seed=seed if settings.readonly_dropout else None,
            precision=settings.precision,
            look=self.look_at_scores,
            agreed=lambda number: agreed_number(self, number),
        )

    def _seed(self, stage: int) -> int:
        """
        Of run, iteration, stage, and pass of an iteration that accumulates gradients. No random
        state moves, and a resumed run drops what an uninterrupted one would.
        """
        iteration = get_event_storage().iter
        last, number = self._last_pass
        if stage == 0 and not in_backward():
            self._last_pass = (iteration, number + 1 if iteration == last else 0)
        return hash((torch.initial_seed(), iteration, stage, self._last_pass[1])) % 2**63
