"""
OHEM as ROI heads (paper Sec. 4). A step, in the order of this file: ``forward`` keeps the feature
maps. The sampler hook lets the parent label all RoIs. ``mine`` computes their losses in a read-only
pass. ``select`` ranks them, and NMS and budget choose the hard ones. The parent trains on these.
"""

import contextlib
import functools
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import roi_heads
from detectron2.structures import BitMasks, Instances, PolygonMasks
from detectron2.utils.events import EventStorage, get_event_storage
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.profiler import record_function

from .checks import check_roi_heads
from .compat import not_compiled
from .config import OHEMSettings
from .mining import selection
from .mining.candidates import candidates, labels_of_all, with_masks, without_masks
from .mining.losses import CannotMine
from .mining.record import Call, Mining
from .mining.scoring import by_location, chunk_size_for, losses_of_all
from .mining.screening import coarse_scorer, most_promising
from .monitor.pictures import MiningPictures
from .monitor.scalars import MiningMonitor
from .verify import losses_in, verify, with_gradients

logger = logging.getLogger(__name__)
register = roi_heads.ROI_HEADS_REGISTRY.register


class OHEMMixin:
    """
    Adds OHEM to ROI heads: ``class MyOHEMHeads(OHEMMixin, MyHeads)``. Heads that do not predict
    through ``box_pooler``, ``box_head`` and ``box_predictor`` override :meth:`score_rois`.
    """

    ohem = OHEMSettings()
    #: its ``show`` is called with a :class:`Mining <ohem_d2.mining.record.Mining>` if ``due()``
    watcher: Any = None
    #: fields of these types are copied to mined RoIs only; set () if a sampler reads them
    left_out: tuple[type, ...] = (BitMasks, PolygonMasks)
    #: False: sample as the parent does, see :func:`sampling_at_random`
    mines = True

    _call: Call | None = None
    _past_warmup, _num_mined = False, 0

    def __new__(cls, *args: Any, **kwargs: Any) -> "OHEMMixin":
        """Reads the settings here, because not every ``__init__`` is given the configuration."""
        heads = super().__new__(cls)
        heads._monitor = MiningMonitor()
        cfg = kwargs.get("cfg", args[0] if args else None)
        if isinstance(cfg, (CfgNode, DictConfig)):
            heads.ohem, heads.watcher = OHEMSettings.from_cfg(cfg), MiningPictures.from_cfg(cfg)
        return heads

    def __init__(self, *args: Any, ohem: Any = None, watcher: Any = None, **kwargs: Any):
        """The parent's arguments, and ``ohem``: OHEMSettings or a dict, in place of cfg's keys."""
        super().__init__(*args, **kwargs)
        if ohem is not None:
            self.ohem = ohem if isinstance(ohem, OHEMSettings) else OHEMSettings.from_dict(ohem)
        self.watcher = watcher or self.watcher
        check_roi_heads(self, type(self).score_rois is not OHEMMixin.score_rois)
        name, budget = type(self).__name__, self.batch_size_per_image
        logger.info(f"OHEM is active: {name}, the {budget} hardest RoIs per image, {self.ohem}")

    def forward(self, images: Any, features: Any, proposals: Any, *args: Any, **kwargs: Any) -> Any:
        """Calls the parent. In training it keeps the feature maps for the sampler hook."""
        if not self.training:
            return super().forward(images, features, proposals, *args, **kwargs)
        outer, self._call = self._call, Call(images, features, torch.is_grad_enabled())
        try:
            result = super().forward(images, features, proposals, *args, **kwargs)
            losses = losses_in(result)
            with_gradients(losses, self.parameters())
            self._look_back(losses, kwargs.get("targets", args[0] if args else None) is not None)
        finally:
            self._call = outer
        return result

    @not_compiled
    @torch.no_grad()
    def label_and_sample_proposals(
        self, proposals: list[Instances], targets: list[Instances], *args: Any, **kwargs: Any
    ) -> list[Instances]:
        """
        Label all proposals and return the hard ones, hardest first, with the parent's fields. In
        the warm-up and in evaluation mode, return what the parent samples.
        """
        call, sample, name = self._call, super().label_and_sample_proposals, type(self).__name__
        if call is not None:
            call.sampled = True
        if not self._mines_now():
            return sample(proposals, targets, *args, **kwargs)
        if call is None:
            raise RuntimeError(f"{name} mines only in forward(), where it has the feature maps")
        with record_function("ohem/mine"):
            # In its own storage, because the parent logs how many RoIs it labels: here all of them.
            with record_function("ohem/label"), EventStorage(get_event_storage().iter):
                call.num_labelled = 0
                light = [without_masks(target, self.left_out) for target in targets]
                rois = sample(proposals, light, *args, **kwargs)
            if rois and call.num_labelled == 0:
                took = "_sample_proposals(), which is where OHEM takes all RoIs"
                raise CannotMine(f"label_and_sample_proposals() of {name} does not call {took}")
            call.num_labelled = None
            mined = self.mine(rois, targets)
            return [with_masks(roi, target, self.left_out) for roi, target in zip(mined, targets)]

    def _mines_now(self) -> bool:
        past_warmup = get_event_storage().iter >= self.ohem.warmup_iters
        if self._call is None or self._call.is_iteration:
            self._past_warmup = past_warmup
        # Passes that are not iterations have their own storages, so they follow the training.
        return self.training and self.mines and (past_warmup or self._past_warmup)

    def _sample_proposals(self, matched_idxs, matched_labels, gt_classes, *args, **kwargs):
        """All RoIs while the parent labels them for mining, else the parent's random sample."""
        matched, call = (matched_idxs, matched_labels, gt_classes), self._call
        if call is None or call.num_labelled is None:
            return super()._sample_proposals(*matched, *args, **kwargs)
        call.num_labelled += 1
        index = torch.arange(len(matched_idxs), device=matched_idxs.device)
        return index, labels_of_all(*matched, self.num_classes)

    def mine(self, rois: list[Instances], targets: list[Instances]) -> list[Instances]:
        """Choose the hard RoIs among all labelled RoIs of each image, hardest first."""
        ohem, call, num_samples = self.ohem, self._call, self.batch_size_per_image
        keep = candidates(rois, targets, self.num_classes, ohem.ignore_ioa_thresh)
        kept = [roi[index] for roi, index in zip(rois, keep)]
        kept = [roi[by_location(roi.proposal_boxes.get_centers())] for roi in kept]
        some_map = next(iter(call.features.values()))
        size = ohem.chunk_size or chunk_size_for(self, some_map, num_samples * len(rois))
        how = {"chunk_size": size, "precision": ohem.readonly_precision}
        if ohem.screening > 0:
            with record_function("ohem/screen"):
                losses = losses_of_all(self, coarse_scorer(self, call.features), kept, **how)
                kept = most_promising(kept, self.rank(losses), round(ohem.screening * num_samples))
        score = functools.partial(self.score_rois, call.features)
        losses = losses_of_all(self, score, kept, dropout=ohem.readonly_dropout, **how)
        mining = self.select(losses, kept, rois, targets)
        if call.stage == 0:
            call.ranked.append({name: loss[mining.hard] for name, loss in losses.items()})
        return [roi[index] for roi, index in zip(kept, mining.hard_of_image)]

    def score_rois(self, features: dict[str, Tensor], proposals: list[Instances]) -> tuple:
        """
        The box predictor and its predictions for R labelled RoIs: scores (R, K + 1) and deltas
        (R, 4 or 4K), or what its ``per_roi_losses`` take. Heads that predict in another way
        override this. In evaluation mode it must return what their training pass predicts.
        ``features`` are the maps that ``forward`` was given; ``proposals`` are a chunk of RoIs.
        """
        maps = [features[f] for f in self.box_in_features]
        pooled = self.box_pooler(maps, [p.proposal_boxes for p in proposals])
        return self.box_predictor, self.box_predictor(self.box_head(pooled))

    def rank(self, losses: dict[str, Tensor]) -> Tensor:
        """The ranking loss of each RoI, (R,): the weighted sum of both losses (paper Sec. 4.1)."""
        weights = self.ohem.rank_cls_weight, self.ohem.rank_loc_weight
        terms = zip(weights, (losses["loss_cls"], losses["loss_box_reg"]))
        return sum(weight * loss for weight, loss in terms if weight > 0)  # 0 * NaN is NaN

    def select(self, losses: dict[str, Tensor], kept: list, rois: list, targets: list) -> Mining:
        """Choose among the candidates ``kept`` by their losses (paper Sec. 4.2), and log it."""
        ohem, call, ranking = self.ohem, self._call, self.rank(losses)
        image_index = selection.image_of_each(list(map(len, kept)), ranking.device)
        boxes = torch.cat([roi.proposal_boxes.tensor for roi in kept])
        gt_classes = torch.cat([roi.gt_classes for roi in kept])
        is_foreground = gt_classes < self.num_classes
        with record_function("ohem/nms"):
            every = ranking, boxes, gt_classes, image_index
            survivors = selection.nms_by_loss(*every, ohem.nms_thresh, ohem.nms_scope)
        budget = selection.per_image if ohem.budget == "image" else ohem.budget
        budget = selection.quota(self.positive_fraction) if budget == "quota" else budget
        in_order = (x[survivors] for x in (ranking, is_foreground, image_index))
        hard = survivors[budget(*in_order, len(kept), self.batch_size_per_image)]
        hard_of_image = selection.split_by_image(hard, image_index, list(map(len, kept)))
        seen = call.images, rois, targets, kept, image_index, is_foreground, losses
        mining = Mining(*seen, ranking, survivors, hard, hard_of_image, call.stage)
        prefix = f"stage{call.stage}/" if ohem.cascade_stages == "all" else ""
        self._monitor.look_at(mining, prefix, call.is_iteration)
        if self.watcher is not None and self.watcher.due():
            self.watcher.show(mining)
        return mining

    @not_compiled
    def _look_back(self, losses: Mapping[str, Tensor], has_targets: bool) -> None:
        """Compare the losses that the parent's ``forward`` returned with those of the ranking."""
        call = self._call
        if losses and has_targets and not call.sampled:
            self._monitor.say_once(
                f"{type(self).__name__} trained without calling label_and_sample_proposals(), so "
                "nothing was mined. If it samples in a method of another name, override that "
                "one so that it calls label_and_sample_proposals()"
            )
        if call.ranked and call.is_iteration:
            self._num_mined += 1
            if self.ohem.verify and self._num_mined & (self._num_mined - 1) == 0:
                ranked = {n: torch.cat([part[n] for part in call.ranked]) for n in call.ranked[0]}
                self._monitor.say_once(verify(self, ranked, losses))


@contextlib.contextmanager
def sampling_at_random(model: nn.Module) -> Iterator[None]:
    """Within the context OHEM heads sample as their parents do, e.g. for a validation loss."""
    with contextlib.ExitStack() as stack:
        for heads in (m for m in model.modules() if isinstance(m, OHEMMixin) and m.mines):
            heads.mines = False
            stack.callback(setattr, heads, "mines", True)
        yield


@register()
class OHEMROIHeads(OHEMMixin, roi_heads.StandardROIHeads):
    """``StandardROIHeads`` with OHEM: FPN, C5 and DC5 models; box, mask, keypoint branches."""


@register()
class OHEMRROIHeads(OHEMMixin, roi_heads.RROIHeads):
    """``RROIHeads`` with OHEM: rotated boxes. Needs Detectron2's compiled ops."""


@register()
class OHEMRes5ROIHeads(OHEMMixin, roi_heads.Res5ROIHeads):
    """``Res5ROIHeads`` with OHEM: C4 models."""

    def score_rois(self, features: dict[str, Tensor], proposals: list[Instances]) -> tuple:
        maps = [features[f] for f in self.in_features]
        x = self._shared_roi_transform(maps, [p.proposal_boxes for p in proposals])
        return self.box_predictor, self.box_predictor(x.mean(dim=[2, 3]))


@register()
class OHEMCascadeROIHeads(OHEMMixin, roi_heads.CascadeROIHeads):
    """
    ``CascadeROIHeads`` with OHEM. With CASCADE_STAGES "all", the read-only pass refines all RoIs
    stage by stage, and each stage trains on the hard ones among the RoIs that reach it.
    """

    def score_rois(self, features: dict[str, Tensor], proposals: list[Instances]) -> tuple:
        call, maps = self._call, [features[f] for f in self.box_in_features]
        stage = call.stage if call is not None else 0
        predictor, predictions = self.box_predictor[stage], self._run_stage(maps, proposals, stage)
        if call is not None and self.ohem.cascade_stages == "all":
            call.refined.append(predictor.predict_boxes(predictions, proposals))
        return predictor, predictions

    @not_compiled
    @torch.no_grad()
    def _match_and_label_boxes(self, proposals, stage, targets):
        call = self._call
        if call is None or not call.refined:  # "first", a warm-up, or evaluation mode
            return super()._match_and_label_boxes(proposals, stage, targets)
        boxes = [torch.cat(chunks) for chunks in zip(*call.refined)]
        # The box of a RoI with a NaN loss may be NaN too, and the parent refuses such boxes.
        boxes = [b[torch.isfinite(b).all(dim=1)] for b in boxes]
        call.stage, call.refined = stage, []
        rois = self._create_proposals_from_boxes(boxes, [p.image_size for p in proposals])
        with EventStorage(get_event_storage().iter):  # the parent logs how many there are
            rois = super()._match_and_label_boxes(rois, stage, targets)
        return self.mine(rois, targets)
