"""The loss layer, the way to mine that the paper rejects: see the key IMPLEMENTATION."""

import contextlib
import functools
import itertools
from collections.abc import Callable
from typing import Any

import torch
from detectron2.modeling.roi_heads import Res5ROIHeads
from detectron2.structures import Instances
from torch import nn

from ..mining.losses import losses_to_rank_by
from ..mining.scoring import read_only
from .mixin import OHEMMixin


class LossLayerMixin(OHEMMixin):
    """
    ``OHEMMixin`` that knows IMPLEMENTATION "loss_layer". All candidates pass through the head, and
    the rows of the easy ones are taken out of its output, so that nothing flows back from them; the
    list of proposals that the parent holds is cut down alike.
    """

    implementations = ("readonly", "loss_layer")

    def loss_layer_seams(self) -> list[tuple[nn.Module, nn.Module, Callable[[Any], Any]]]:
        """
        Of each stage, where easy RoIs leave the training pass: a module whose output has a row for
        each RoI, the box predictor, and what turns that output into its predictions.
        """
        if isinstance(self, Res5ROIHeads):
            # The mask head goes on with the output of res5, so that is where they have to leave.
            return [(self.res5, self.box_predictor, lambda x: self.box_predictor(x.mean([2, 3])))]
        predictors = self.box_predictor
        predictors = predictors if isinstance(predictors, nn.ModuleList) else [predictors]
        return [(predictor, predictor, lambda predictions: predictions) for predictor in predictors]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self.training or self.ohem.implementation != "loss_layer":
            return super().__call__(*args, **kwargs)
        with contextlib.ExitStack() as stack:
            for stage, (module, *how) in enumerate(self.loss_layer_seams()):
                drop_easy = functools.partial(self._drop_easy, stage, *how)
                stack.enter_context(module.register_forward_hook(drop_easy))
            return super().__call__(*args, **kwargs)

    def choose_rois(
        self, rois: list[Instances], targets: list[Instances], stage: int = 0
    ) -> list[Instances]:
        """Of the loss layer all candidates, in a list that is cut down later."""
        if self.ohem.implementation != "loss_layer":
            return super().choose_rois(rois, targets, stage)
        return self.miner().candidates(rois, targets)

    def label_and_sample_proposals(self, *args: Any, **kwargs: Any) -> list[Instances]:
        return self.to_be_cut_down(super().label_and_sample_proposals(*args, **kwargs))

    def to_be_cut_down(self, rois: list[Instances]) -> list[Instances]:
        """The same list, which the next seam takes the easy RoIs out of."""
        call = self._call
        if call is not None and call.mined:
            call.state["uncut"] = rois
        return rois

    def _drop_easy(self, stage, predictor, to_predictions, module, inputs, output):
        """A forward hook of the module of a seam."""
        rois = self._call.state.pop("uncut", None)
        if rois is None:  # random sampling during a warm-up, or a later stage
            return output
        with read_only(self):
            predictions = to_predictions(output)
            losses = losses_to_rank_by(predictor, predictions, rois)
            self.look_at_scores(predictor, predictions, rois)
            record = self.miner().select(rois, losses)
        self.report(record, stage)
        starts = itertools.accumulate((len(p) for p in rois[:-1]), initial=0)
        rows = torch.cat([index + start for index, start in zip(record.hard, starts)])
        rois[:] = record.mined()
        if isinstance(output, torch.Tensor):
            return output[rows]
        return tuple(part[rows] for part in output)
