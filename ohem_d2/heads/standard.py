"""OHEM as ROI heads: the sampler hook of Detectron2, wired to scoring and selection."""

import contextlib
import itertools
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import (
    ROI_HEADS_REGISTRY,
    CascadeROIHeads,
    Res5ROIHeads,
    RROIHeads,
    StandardROIHeads,
)
from detectron2.structures import ImageList, Instances
from detectron2.structures.boxes import matched_pairwise_iou
from detectron2.utils.events import EventStorage, get_event_storage
from torch import nn
from torch.profiler import record_function

from ..config import OHEMSettings
from ..data.crowds import inside_ignore_region
from ..mining.losses import check_predictor, per_roi_losses
from ..mining.record import Mining, MiningWatcher
from ..mining.scoring import ReadOnlyPass, by_location, in_chunks
from ..mining.screening import BINS, can_fold, coarse_head, coarse_pooler
from ..mining.selection import (
    cut_to_budget,
    image_of_each,
    nms_by_loss,
    order_by_loss,
    split_by_image,
)
from ..monitor.pictures import MiningPictures
from ..monitor.scalars import LOGGER_NAME, MiningEvents

logger = logging.getLogger(LOGGER_NAME)

# With CHUNK_SIZE 0 the pooled RoIs of a chunk take as much as this, or are as many as those that
# the training pass takes at a time anyway.
_CHUNK_BYTES = 32 * 2**20

# What scores RoIs: feature maps by name and RoIs -> box predictor, its predictions
Scorer = Callable[
    [dict[str, torch.Tensor], list[Instances]], tuple[nn.Module, tuple[torch.Tensor, torch.Tensor]]
]


class OHEMMixin:
    """
    Makes OHEM heads of ROI heads: list it first among the bases. ::

        @ROI_HEADS_REGISTRY.register()
        class MyOHEMHeads(OHEMMixin, MyHeads):
            pass

    It overrides the sampler hook, ``label_and_sample_proposals``: all proposals are labelled, a
    read-only pass gives each its loss, and the hard ones are kept (paper Sec. 4). The parent's
    ``forward`` then trains on them as it would on a random sample. Inference is the parent's.

    Heads that build on ``StandardROIHeads`` need nothing else. Others override
    :meth:`score_rois`; a subclass of ``CascadeROIHeads`` lists ``OHEMCascadeROIHeads`` first
    instead, one of ``Res5ROIHeads`` ``OHEMRes5ROIHeads``, one of ``RROIHeads`` ``OHEMRROIHeads``.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        bases = cls.__mro__[cls.__mro__.index(OHEMMixin) + 1 :]
        init = next(base.__init__ for base in bases if "__init__" in vars(base))
        if init is not object.__init__ and not hasattr(init, "__wrapped__"):
            raise TypeError(
                f"{cls.__name__} cannot mine: {init.__qualname__} is not @configurable. Give its "
                "class the explicit arguments and the from_config of Detectron2's own ROI heads"
            )

    @configurable
    def __init__(
        self,
        *,
        ohem: OHEMSettings | Mapping[str, Any] | None = None,
        watcher: MiningWatcher | None = None,
        **kwargs: Any,
    ):
        """
        Args:
            ohem: the settings, or a dict of some of them, as in a LazyConfig; defaults if None.
            watcher: is shown what is mined; from a config with VIS_PERIOD, one that draws it.
            kwargs: the parent's arguments. Its ``batch_size_per_image`` is B/N of the paper, its
                ``positive_fraction`` counts only during a warm-up.

        Raises:
            ValueError: if settings do not fit each other or the head.
            TypeError, NotImplementedError: if the head or its predictor cannot be ranked by.
        """
        super().__init__(**kwargs)
        if not isinstance(ohem, OHEMSettings):
            ohem = OHEMSettings.from_dict(ohem or {})
        self.ohem = ohem
        self._check_head()
        self._events = MiningEvents()
        self.watcher = watcher
        # The following are set for the length of one forward at most.
        self._features: dict[str, torch.Tensor] | None = None
        self._inputs: tuple[ImageList, list[Instances], list[Instances]] | None = None
        self._sampler: Callable | None = None
        self._unmined: list[Instances] | None = None
        logger.info(self._describe())

    @classmethod
    def from_config(cls, cfg: Any, input_shape: Any) -> dict[str, Any]:
        ret = super().from_config(cfg, input_shape)
        ret["ohem"] = OHEMSettings.from_cfg(cfg)
        ret["watcher"] = MiningPictures.from_cfg(cfg)
        return ret

    # ---- what a head has to say -----------------------------------------------------------

    def score_rois(
        self, features: dict[str, torch.Tensor], proposals: list[Instances], stage: int = 0
    ) -> tuple[nn.Module, tuple[torch.Tensor, torch.Tensor]]:
        """
        Predict for RoIs as the training pass does. Heads with another structure override this.

        Args:
            features: feature maps by name, as in the parent's ``forward``.
            proposals: one for each image, with ``proposal_boxes``; R RoIs in all. While scoring
                these are a chunk of the RoIs, in an order of their places in the image.
            stage: of a cascade; else 0.

        Returns:
            the box predictor and its predictions, scores (R, K + 1) and deltas (R, 4 or 4K).
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
        if type(self).score_rois is OHEMMixin.score_rois:
            return self.box_pooler, self.box_head, self.box_predictor
        return None

    def loss_layer_seams(self) -> list[tuple[nn.Module, nn.Module, Callable]]:
        """
        Only for IMPLEMENTATION "loss_layer": where easy RoIs leave the training pass.

        Returns:
            for each stage: a module whose output has a row for each RoI; the box predictor; and
            what turns that output into the predictor's predictions.
        """
        return [(self.box_predictor, self.box_predictor, lambda predictions: predictions)]

    # ---- the seams of Detectron2 ----------------------------------------------------------

    def __call__(
        self,
        images: ImageList,
        features: dict[str, torch.Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
        **kwargs: Any,
    ) -> tuple[list[Instances], dict[str, torch.Tensor]]:
        """
        See the parent's ``forward``. In training this keeps the features at hand for the sampler
        hook. It wraps the call, and ``forward`` itself stays the parent's, so that TorchScript
        compiles that and nothing of OHEM.
        """
        if not self.training:
            return super().__call__(images, features, proposals, targets, **kwargs)
        self._features = features
        self._inputs = images, proposals, targets
        try:
            with self._loss_layer():
                proposals, losses = super().__call__(images, features, proposals, targets, **kwargs)
        finally:
            self._features = self._inputs = self._unmined = None
        return proposals, self._reaching_every_parameter(losses)

    @torch.no_grad()
    def label_and_sample_proposals(
        self, proposals: list[Instances], targets: list[Instances]
    ) -> list[Instances]:
        """
        Label all proposals and keep the hard ones.

        Args:
            proposals, targets: see the parent.

        Returns:
            one ``Instances`` for each image, with the parent's fields, hardest first. In case of
            IMPLEMENTATION "loss_layer" all candidates.
        """
        if get_event_storage().iter < self.ohem.warmup_iters:
            return super().label_and_sample_proposals(proposals, targets)
        if self._features is None:
            raise RuntimeError(
                f"{type(self).__name__}.label_and_sample_proposals() scores the proposals on the "
                "feature maps, so it works only when called by forward(), and that by calling the "
                "heads themselves"
            )
        with record_function("ohem/mine"):
            return self._mine(proposals, targets)

    def _mine(self, proposals: list[Instances], targets: list[Instances]) -> list[Instances]:
        proposals = [self._most_objectlike(p) for p in proposals]

        # The parent labels: it appends the ground truth, matches, and asks _sample_proposals for
        # a choice, image by image. It is asked twice. The first time the labels are recorded and
        # nothing is chosen, so that no masks or keypoints of easy RoIs are copied.
        labels: list[tuple[torch.Tensor, torch.Tensor]] = []

        def record(matched_idxs, matched_labels, gt_classes):
            labels.append((matched_idxs, self._classes(matched_idxs, matched_labels, gt_classes)))
            return matched_idxs[:0], matched_idxs[:0]

        with record_function("ohem/label"):
            with self._sampling(record), EventStorage(get_event_storage().iter):
                super().label_and_sample_proposals(proposals, targets)
            rois = self._labelled_rois(proposals, targets, labels)
            candidates = self._candidates(rois, targets)

        if self.ohem.implementation == "readonly":
            chosen = self._hard(rois, candidates)
            logs = contextlib.nullcontext()
        else:
            chosen = candidates
            logs = EventStorage(get_event_storage().iter)  # they would count all candidates

        replies = zip(chosen, labels)

        def reply(matched_idxs, matched_labels, gt_classes):
            indices, (_, classes) = next(replies)
            return indices, classes[indices]

        with record_function("ohem/gather"), self._sampling(reply), logs:
            sampled = super().label_and_sample_proposals(proposals, targets)
        self._unmined = sampled if self.ohem.implementation == "loss_layer" else None
        return sampled

    def _sample_proposals(
        self, matched_idxs: torch.Tensor, matched_labels: torch.Tensor, gt_classes: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See the parent, which samples at random; so does this during a warm-up."""
        if self._sampler is None:
            return super()._sample_proposals(matched_idxs, matched_labels, gt_classes)
        return self._sampler(matched_idxs, matched_labels, gt_classes)

    def _reaching_every_parameter(self, losses: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """
        Some losses of no RoI at all, Detectron2's sigmoid cross entropy among them, are constants.
        Their parameters would get no gradient, and other processes would wait for it.
        """
        if all(loss.requires_grad for loss in losses.values()):
            return losses
        zero = 0.0 * sum(p.sum() for p in self.parameters() if p.requires_grad)
        return {k: loss if loss.requires_grad else loss + zero for k, loss in losses.items()}

    # ---- label -----------------------------------------------------------------------------

    def _most_objectlike(self, proposals: Instances) -> Instances:
        if not 0 < self.ohem.max_candidates < len(proposals):
            return proposals
        if not proposals.has("objectness_logits"):
            raise ValueError(
                f"MODEL.ROI_HEADS.OHEM.MAX_CANDIDATES = {self.ohem.max_candidates} keeps the "
                "proposals with the highest objectness_logits, which these have not; allowed: 0"
            )
        order = torch.sort(proposals.objectness_logits, descending=True, stable=True).indices
        return proposals[order[: self.ohem.max_candidates]]

    def _classes(
        self, matched_idxs: torch.Tensor, matched_labels: torch.Tensor, gt_classes: torch.Tensor
    ) -> torch.Tensor:
        """Classes in [0, K], or -1 for "ignore", of R proposals from the matcher's labels."""
        if len(gt_classes) == 0:
            return torch.full_like(matched_idxs, self.num_classes)
        classes = gt_classes[matched_idxs]
        classes = torch.where(matched_labels == 0, self.num_classes, classes)
        return torch.where(matched_labels == -1, -1, classes)

    def _labelled_rois(
        self,
        proposals: list[Instances],
        targets: list[Instances],
        labels: list[tuple[torch.Tensor, torch.Tensor]],
    ) -> list[Instances]:
        """RoIs with what the ranking needs: boxes, classes, and boxes of the matched objects."""
        if len(labels) != len(proposals):
            raise TypeError(
                f"{type(self).__name__} cannot mine: its label_and_sample_proposals() does not "
                "call _sample_proposals() once for each image, which is where OHEM chooses"
            )
        rois = []
        for p, target, (matched_idxs, classes) in zip(proposals, targets, labels):
            boxes = p.proposal_boxes
            if self.proposal_append_gt:
                boxes = type(boxes).cat([boxes, target.gt_boxes])
            roi = Instances(p.image_size, proposal_boxes=boxes, gt_classes=classes)
            if len(target) > 0:
                roi.gt_boxes = target.gt_boxes[matched_idxs]
            rois.append(roi)
        return rois

    def _candidates(self, rois: list[Instances], targets: list[Instances]) -> list[torch.Tensor]:
        """Indices of the RoIs in each image that may be mined."""
        keep = []
        for roi, target in zip(rois, targets):
            excluded = inside_ignore_region(roi.proposal_boxes, target, self.ohem.ignore_ioa_thresh)
            if self.ohem.bg_iou_low > 0:
                if roi.has("gt_boxes"):
                    iou = matched_pairwise_iou(roi.proposal_boxes, roi.gt_boxes)
                    excluded = excluded | (iou < self.ohem.bg_iou_low)
                else:
                    excluded = torch.ones_like(excluded)
            foreground = roi.gt_classes < self.num_classes
            keep.append((roi.gt_classes >= 0) & (foreground | ~excluded))
        sizes = [len(roi) for roi in rois]
        kept = torch.cat(keep)
        image_index = image_of_each(sizes, kept.device)
        return split_by_image(torch.nonzero(kept).squeeze(1), image_index, sizes)

    # ---- score -----------------------------------------------------------------------------

    def _readonly_losses(
        self, rois: list[Instances], stage: int = 0, scorer: Scorer | None = None
    ) -> dict[str, torch.Tensor]:
        """
        The losses of all R RoIs from the read-only pass, each of shape (R,).

        Args:
            scorer: a stand-in for :meth:`score_rois`; without dropout, so that RoIs are screened
                by what is known of them and not by chance.
        """
        chunk_size = self.ohem.chunk_size or self._automatic_chunk_size(len(rois))
        orders = [by_location(self._upright(roi.proposal_boxes)) for roi in rois]
        rois = [roi[order] for roi, order in zip(rois, orders)]
        losses = []
        dropout = self.ohem.readonly_dropout and scorer is None
        with self._readonly(stage, dropout) as readonly:
            for chunk in in_chunks(rois, chunk_size):
                if scorer is not None:
                    predictor, predictions = scorer(self._features, chunk)
                else:
                    predictor, predictions = self.score_rois(self._features, chunk, stage)
                    self._note_predictions(predictor, predictions, chunk)
                with record_function("ohem/loss"):
                    losses.append(per_roi_losses(predictor, predictions, chunk))
                readonly.next_chunk(sum(len(part) for part in chunk))
        starts = itertools.accumulate((len(order) for order in orders), initial=0)
        place = torch.cat([order + start for order, start in zip(orders, starts)])
        ordered = {name: torch.cat([part[name] for part in losses]) for name in losses[0]}
        return {n: torch.empty_like(x).index_copy_(0, place, x) for n, x in ordered.items()}

    def _automatic_chunk_size(self, num_images: int) -> int:
        chunk_size = self.batch_size_per_image * num_images
        pooler = next((m for m in self.modules() if isinstance(m, ROIPooler)), None)
        if pooler is not None:
            features = next(iter(self._features.values()))
            height, width = pooler.output_size
            roi_bytes = features.shape[1] * height * width * features.element_size()
            chunk_size = max(chunk_size, _CHUNK_BYTES // roi_bytes)
        return chunk_size

    def _readonly(self, stage: int, dropout: bool) -> ReadOnlyPass:
        iteration = get_event_storage().iter
        # No random state moves, and a resumed run draws the masks that an uninterrupted one does.
        seed = hash((torch.initial_seed(), iteration, stage))
        precision = getattr(torch, self.ohem.readonly_precision or "float32")
        return ReadOnlyPass(
            self,
            dropout=dropout,
            seed=seed,
            iteration=iteration,
            precision=None if precision is torch.float32 else precision,
        )

    def _promising(self, rois: list[Instances]) -> list[torch.Tensor]:
        """Indices of the RoIs in each image that a cheap stand-in for the box head finds hard."""
        pooler, head, predictor = self.screened_branch()
        head = coarse_head(head, pooler.output_size[0], BINS)
        pooler = coarse_pooler(pooler, BINS)

        def scorer(features, chunk):
            boxes = [p.proposal_boxes for p in chunk]
            pooled = pooler([features[f] for f in self.box_in_features], boxes)
            return predictor, predictor(head(pooled))

        ranking = self._ranking(self._readonly_losses(rois, scorer=scorer))
        most = round(self.ohem.screening * self.batch_size_per_image)
        sizes = [len(roi) for roi in rois]
        return [order_by_loss(part)[:most] for part in ranking.split(sizes)]

    def _note_predictions(
        self, predictor: nn.Module, predictions: Any, proposals: list[Instances]
    ) -> None:
        """For subclasses that need more of the read-only pass than the losses."""

    # ---- select ----------------------------------------------------------------------------

    def _hard(
        self, rois: list[Instances], candidates: list[torch.Tensor], stage: int = 0
    ) -> list[torch.Tensor]:
        """Score the candidates and return the indices of the hard ones in each image."""
        rois = [roi[index] for roi, index in zip(rois, candidates)]
        if self.ohem.screening > 0:
            with record_function("ohem/screen"):
                promising = self._promising(rois)
            rois = [roi[index] for roi, index in zip(rois, promising)]
            candidates = [index[chosen] for index, chosen in zip(candidates, promising)]
        hard = self._select(rois, self._readonly_losses(rois, stage), stage)
        return [index[chosen] for index, chosen in zip(candidates, hard)]

    def _ranking(self, losses: dict[str, torch.Tensor]) -> torch.Tensor:
        """The loss (R,) that RoIs are ranked by. A weight of 0 leaves a loss out even if NaN."""
        weights = {
            "loss_cls": self.ohem.rank_cls_weight,
            "loss_box_reg": self.ohem.rank_loc_weight,
        }
        return sum(weight * losses[name] for name, weight in weights.items() if weight > 0)

    def _select(
        self, rois: list[Instances], losses: dict[str, torch.Tensor], stage: int = 0
    ) -> list[torch.Tensor]:
        """
        From the losses (R,) of all candidates to the indices of the hard ones in each image,
        hardest first. Logs what was mined.
        """
        settings = self.ohem
        sizes = [len(roi) for roi in rois]
        boxes = torch.cat([roi.proposal_boxes.tensor for roi in rois])
        gt_classes = torch.cat([roi.gt_classes for roi in rois])
        image_index = image_of_each(sizes, boxes.device)
        ranking = self._ranking(losses)
        with record_function("ohem/nms"):
            survivors = self._nms_by_loss(
                ranking,
                boxes,
                gt_classes,
                image_index,
                nms_thresh=settings.nms_thresh,
                nms_scope=settings.nms_scope,
            )
        with record_function("ohem/cut"):
            is_foreground = gt_classes < self.num_classes
            kept = cut_to_budget(
                is_foreground[survivors],
                image_index[survivors],
                len(rois),
                self.batch_size_per_image,
                budget=settings.budget,
                max_fg_fraction=settings.max_fg_fraction,
                max_neg_per_pos=settings.max_neg_per_pos,
                min_neg_per_image=settings.min_neg_per_image,
            )
            chosen = survivors[kept]
            hard = split_by_image(chosen, image_index, sizes)
        with record_function("ohem/log"):
            self._events.log(
                losses=losses,
                ranking=ranking,
                is_foreground=is_foreground,
                image_index=image_index,
                num_images=len(rois),
                num_survivors=len(survivors),
                chosen=chosen,
            )
            if self.watcher is not None and self.watcher.due():
                self.watcher.show(self._mining(rois, losses, ranking, survivors, hard, stage))
        return hard

    def _mining(self, rois, losses, ranking, survivors, hard, stage) -> Mining:
        """The first image's part of a selection: Detectron2, too, draws that one of a batch."""
        images, proposals, targets = self._inputs
        size = len(rois[0])
        return Mining(
            image=images[0],
            proposals=(proposals if stage == 0 else rois)[0].proposal_boxes,
            target=targets[0],
            rois=rois[0],
            is_foreground=rois[0].gt_classes < self.num_classes,
            losses={name: loss[:size] for name, loss in losses.items()},
            ranking=ranking[:size],
            survivors=survivors[survivors < size],
            hard=hard[0],
            stage=stage,
        )

    # Rotated boxes have their own.
    _nms_by_loss = staticmethod(nms_by_loss)

    @staticmethod
    def _upright(boxes: Any) -> torch.Tensor:
        """Of shape (R, 4), absolute XYXY pixels: where the RoIs are."""
        return boxes.tensor

    # ---- helpers ---------------------------------------------------------------------------

    @contextlib.contextmanager
    def _sampling(self, sampler: Callable) -> Iterator[None]:
        """Within the context, ``sampler`` answers the parent's calls of ``_sample_proposals``."""
        self._sampler = sampler
        try:
            yield
        finally:
            self._sampler = None

    @contextlib.contextmanager
    def _loss_layer(self) -> Iterator[None]:
        """
        IMPLEMENTATION "loss_layer": within the context, all candidates pass through the head, and
        the rows of the easy ones are taken out of its output, so that nothing flows back from
        them; the list of proposals that the parent holds is cut down alike.
        """
        with contextlib.ExitStack() as stack:
            if self.ohem.implementation == "loss_layer":
                for stage, (module, predictor, to_predictions) in enumerate(
                    self.loss_layer_seams()
                ):

                    def hook(_, inputs, output, stage=stage, args=(predictor, to_predictions)):
                        return self._drop_easy(output, stage, *args)

                    stack.callback(module.register_forward_hook(hook).remove)
            yield

    def _drop_easy(
        self, output: Any, stage: int, predictor: nn.Module, to_predictions: Callable
    ) -> Any:
        proposals, self._unmined = self._unmined, None
        if proposals is None:  # random sampling during a warm-up, or a later stage
            return output
        with self._readonly(stage, dropout=False):
            predictions = to_predictions(output)
            losses = per_roi_losses(predictor, predictions, proposals)
            self._note_predictions(predictor, predictions, proposals)
        hard = self._select(proposals, losses, stage)
        starts = itertools.accumulate((len(p) for p in proposals[:-1]), initial=0)
        rows = torch.cat([index + start for index, start in zip(hard, starts)])
        proposals[:] = [p[index] for p, index in zip(proposals, hard)]
        if isinstance(output, torch.Tensor):
            return output[rows]
        return tuple(part[rows] for part in output)

    def _check_head(self) -> None:
        settings, name = self.ohem, type(self).__name__
        settings.check_budget(self.batch_size_per_image)
        matcher = self.proposal_matcher
        background_ends = [
            high for label, high in zip(matcher.labels, matcher.thresholds[1:]) if label == 0
        ]
        if background_ends and settings.bg_iou_low >= max(background_ends):
            raise ValueError(
                f"MODEL.ROI_HEADS.OHEM.BG_IOU_LOW = {settings.bg_iou_low} leaves no background; "
                f"allowed: below MODEL.ROI_HEADS.IOU_THRESHOLDS, {max(background_ends)}"
            )
        cascade = isinstance(self, CascadeROIHeads)
        if settings.cascade_stages == "all" and not cascade:
            raise ValueError(
                f"MODEL.ROI_HEADS.OHEM.CASCADE_STAGES = 'all' has no effect on {name}, which is no "
                "cascade; allowed: 'first'"
            )
        # Any other box branch may predict in another way than score_rois does.
        standard = getattr(type(self), "_forward_box", None) is StandardROIHeads._forward_box
        if type(self).score_rois is OHEMMixin.score_rois and not standard:
            raise TypeError(
                f"{name} has to say how it scores RoIs: list OHEMCascadeROIHeads or "
                "OHEMRes5ROIHeads first among its bases if it is a cascade or a C4 head, else "
                "override score_rois(self, features, proposals, stage=0) so that it predicts as "
                "its _forward_box() does"
            )
        if settings.screening > 0:
            branch = self.screened_branch()
            if branch is None or not can_fold(*branch[:2]):
                raise ValueError(
                    f"MODEL.ROI_HEADS.OHEM.SCREENING = {settings.screening} takes a box head that "
                    f"begins with a fully connected layer on RoIs of more than {BINS} x {BINS} "
                    f"bins, which {name} has not; allowed: 0.0"
                )
        if isinstance(self, RROIHeads) and type(self)._nms_by_loss is nms_by_loss:
            raise TypeError(f"{name} has rotated boxes: list OHEMRROIHeads first among its bases")
        predictor = getattr(self, "box_predictor", None)
        for part in predictor if isinstance(predictor, nn.ModuleList) else [predictor]:
            if part is not None:
                check_predictor(part)

    def _describe(self) -> str:
        settings = self.ohem
        nms = "no NMS"
        if settings.nms_scope != "none":
            nms = f"NMS by loss at IoU {settings.nms_thresh} ({settings.nms_scope})"
        screening = ""
        if settings.screening > 0:
            screening = f" after screening at {settings.screening} times as many"
        fraction = "POSITIVE_FRACTION is ignored"
        if settings.warmup_iters > 0:
            fraction = (
                f"the first {settings.warmup_iters} iterations sample at random, "
                "POSITIVE_FRACTION is ignored after them"
            )
        return (
            f"OHEM is active: {type(self).__name__}, the {self.batch_size_per_image} hardest RoIs "
            f"per {settings.budget}{'' if settings.budget == 'image' else ' and image'}, {nms}, "
            f"{settings.implementation}{screening}; {fraction}"
        )


@ROI_HEADS_REGISTRY.register()
class OHEMROIHeads(OHEMMixin, StandardROIHeads):
    """``StandardROIHeads`` with OHEM: FPN, C5 and DC5 models; box, mask, keypoint branches."""

    # TorchScript leaves out the branches that are off. Detectron2 annotates the parent like this
    # when it exports, but annotations are not inherited.
    mask_on: torch.jit.Final[bool]
    keypoint_on: torch.jit.Final[bool]


@ROI_HEADS_REGISTRY.register()
class OHEMRes5ROIHeads(OHEMMixin, Res5ROIHeads):
    """``Res5ROIHeads`` with OHEM: C4 models."""

    def score_rois(
        self, features: dict[str, torch.Tensor], proposals: list[Instances], stage: int = 0
    ) -> tuple[nn.Module, tuple[torch.Tensor, torch.Tensor]]:
        """See the parent."""
        box_features = self._shared_roi_transform(
            [features[f] for f in self.in_features], [p.proposal_boxes for p in proposals]
        )
        return self.box_predictor, self._predict(box_features)

    def loss_layer_seams(self) -> list[tuple[nn.Module, nn.Module, Callable]]:
        """See the parent."""
        # The mask head goes on with the output of res5, so that is where easy RoIs have to leave.
        return [(self.res5, self.box_predictor, self._predict)]

    def _predict(self, box_features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.box_predictor(box_features.mean(dim=[2, 3]))


@ROI_HEADS_REGISTRY.register()
class OHEMCascadeROIHeads(OHEMMixin, CascadeROIHeads):
    """
    ``CascadeROIHeads`` with OHEM.

    With CASCADE_STAGES "first" the later stages train on what the first one makes of its hard
    RoIs. With "all", the read-only pass refines all RoIs, stage after stage, and each stage trains
    on the hard ones among those that reach it.
    """

    # Boxes from each chunk of a read-only pass, by image; set for the length of a forward.
    _refined: list[list[torch.Tensor]] = []

    def score_rois(
        self, features: dict[str, torch.Tensor], proposals: list[Instances], stage: int = 0
    ) -> tuple[nn.Module, tuple[torch.Tensor, torch.Tensor]]:
        """See the parent."""
        features = [features[f] for f in self.box_in_features]
        return self.box_predictor[stage], self._run_stage(features, proposals, stage)

    def screened_branch(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        """See the parent."""
        return self.box_pooler, self.box_head[0], self.box_predictor[0]

    def loss_layer_seams(self) -> list[tuple[nn.Module, nn.Module, Callable]]:
        """See the parent."""
        return [(predictor, predictor, lambda out: out) for predictor in self.box_predictor]

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[list[Instances], dict]:
        self._refined = []
        try:
            return super().__call__(*args, **kwargs)
        finally:
            self._refined = []

    def _note_predictions(self, predictor, predictions, proposals):
        if self.ohem.cascade_stages == "all":
            self._refined.append(predictor.predict_boxes(predictions, proposals))

    @torch.no_grad()
    def _match_and_label_boxes(self, proposals, stage, targets):
        if not self._refined:  # "first", or a warm-up
            return super()._match_and_label_boxes(proposals, stage, targets)
        boxes = [torch.cat(chunks) for chunks in zip(*self._refined)]
        # A RoI whose loss is not finite may have no box either; the parent refuses such boxes.
        boxes = [b[torch.isfinite(b).all(dim=1)] for b in boxes]
        self._refined = []
        rois = self._create_proposals_from_boxes(boxes, [p.image_size for p in proposals])
        with EventStorage(get_event_storage().iter):  # it would count all refined proposals
            rois = super()._match_and_label_boxes(rois, stage, targets)
        chosen = self._candidates(rois, targets)
        if self.ohem.implementation == "readonly":
            chosen = self._hard(rois, chosen, stage)
        rois = [roi[index] for roi, index in zip(rois, chosen)]
        self._unmined = rois if self.ohem.implementation == "loss_layer" else None
        return rois

    def _select(self, rois, losses, stage=0):
        if self.ohem.cascade_stages == "first":
            return super()._select(rois, losses, stage)
        with get_event_storage().name_scope(f"stage{stage}"):
            return super()._select(rois, losses, stage)
