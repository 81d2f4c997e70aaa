"""The detector with the extras, as a module."""

import itertools
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ohem_d2.tools.errors import InputError

from ..box_branch import check_heads, score_boxes
from ..settings import BoxVoting, MultiScale
from .views import views
from .voting import Candidates, above_threshold, iterate, nms, union, vote


def with_test_time_extras(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """
    The model, whose weights have to be loaded, in a :class:`RCNNWithTestTimeExtras`; the model
    itself if the configuration enables nothing. Bad values are found even then.
    """
    multi_scale, box_voting = MultiScale.from_cfg(cfg), BoxVoting.from_cfg(cfg)
    if not (multi_scale.enabled or box_voting.enabled):
        return model
    return RCNNWithTestTimeExtras(model, multi_scale=multi_scale, box_voting=box_voting)


class RCNNWithTestTimeExtras(nn.Module):
    """
    A ``GeneralizedRCNN`` that tests at several scales, or refines its boxes by iterative
    regression and voting, or both. Input and output are the model's own in evaluation.

    +M: the network runs on the image at every scale, with the record's proposals, if any, scaled
    likewise. The candidates of all scales (boxes that score above ``SCORE_THRESH_TEST``, for each
    class) are brought to the coordinates of the image as it came and go through one NMS together.
    (Fast R-CNN and SPPnet instead give each RoI to one scale; the paper does not say how it unites
    them.) Set ``INPUT.MIN_SIZE_TEST`` to 0 to have each scale made of the original pixels.

    +B: see :mod:`.voting`. R2 is computed at the scale of its R1, and again only from boxes that
    score above ``SCORE_THRESH_TEST``. Scores stay those of the boxes that NMS keeps.
    """

    def __init__(self, model: nn.Module, *, multi_scale: Any = None, box_voting: Any = None):
        """
        The model may be in a ``DistributedDataParallel``. What is None is off. Raises TypeError for
        a model of another kind, one with masks or keypoints, and as ``check_heads`` does.
        """
        super().__init__()
        self.model = model.module if isinstance(model, DistributedDataParallel) else model
        inference = getattr(type(self.model), "inference", None)
        heads = getattr(self.model, "roi_heads", None)
        others = getattr(heads, "mask_on", False) or getattr(heads, "keypoint_on", False)
        if inference is not GeneralizedRCNN.inference or others:
            allowed = "a GeneralizedRCNN that detects boxes alone, by the inference() of that class"
            name = type(self.model).__name__
            raise TypeError(f"TEST.MULTI_SCALE and TEST.BOX_VOTING take {allowed}; not {name}")
        check_heads(heads)
        self.multi_scale = multi_scale or MultiScale()
        self.box_voting = box_voting or BoxVoting()

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Instances]]:
        """
        See ``GeneralizedRCNN.forward``. As many images as are given are run at a time, at each
        scale. Raises InputError if the model takes precomputed proposals and a record has none that
        fit it.
        """
        assert not self.training, "this is for evaluation: call eval(), or train the model in it"
        if self.model.proposal_generator is None:
            for record in batched_inputs:
                _check_proposals(record)
        sizes = [tuple(record["image"].shape[-2:]) for record in batched_inputs]
        found: list[list[Candidates]] = [[] for _ in batched_inputs]
        for same_rank in itertools.zip_longest(*(views(s, self.multi_scale) for s in sizes)):
            members = [i for i, view in enumerate(same_rank) if view is not None]
            records = [same_rank[i].of_record(batched_inputs[i]) for i in members]
            for i, candidates in zip(members, self._detect(records)):
                found[i].append(candidates._replace(boxes=same_rank[i].undo(candidates.boxes)))
        results = [self._merge(union(parts), size) for parts, size in zip(found, sizes)]
        return self.model._postprocess(results, batched_inputs, sizes)

    def _detect(self, records: list[dict[str, Any]]) -> list[Candidates]:
        """What the network finds in each image, in its coordinates, before any NMS."""
        model = self.model
        images = model.preprocess_image(records)
        features = model.backbone(images.tensor)
        if model.proposal_generator is None:
            proposals = [record["proposals"].to(model.device) for record in records]
        else:
            proposals, _ = model.proposal_generator(images, features, None)
        found = zip(images.image_sizes, *self._predict(features, proposals))
        return [
            self._of_image({name: f[i : i + 1] for name, f in features.items()}, *of_image)
            for i, of_image in enumerate(found)
        ]

    def _predict(self, features: dict[str, Tensor], proposals: list[Instances]) -> tuple:
        """For each image probabilities (R, K + 1), background last, and boxes (R, 4 or 4K)."""
        predictor, predictions = score_boxes(self.model.roi_heads, features, proposals)
        args = predictions, proposals
        return predictor.predict_probs(*args), predictor.predict_boxes(*args)

    def _of_image(self, features, size, probs, boxes) -> Candidates:
        """From what its R proposals give, (R, K + 1) and (R, 4B), to R1 or the union with R2..."""

        def predict(again: Tensor) -> tuple[Tensor, Tensor]:
            parts = []
            for chunk in again.split(len(probs)):  # which bounds the memory
                rois = Instances(size, proposal_boxes=Boxes(chunk))
                (scores,), (regressed,) = self._predict(features, [rois])
                parts.append(usable(scores, regressed, size))
            return tuple(torch.cat(columns) for columns in zip(*parts))

        thresh = self.model.roi_heads.box_predictor.test_score_thresh
        candidates = above_threshold(*usable(probs, boxes, size), thresh)
        iterations = self.box_voting.iterations if self.box_voting.enabled else 1
        return iterate(candidates, predict, iterations, thresh)

    def _merge(self, candidates: Candidates, image_size: tuple[int, int]) -> Instances:
        predictor, voting = self.model.roi_heads.box_predictor, self.box_voting
        nms_thresh = voting.nms_thresh if voting.enabled else predictor.test_nms_thresh
        kept = nms(candidates, nms_thresh, predictor.test_topk_per_image)
        boxes, scores, classes = (column[kept] for column in candidates)
        if voting.enabled:
            boxes = vote(candidates, kept, voting.vote_thresh)
        found = {"pred_boxes": Boxes(boxes), "scores": scores, "pred_classes": classes}
        return Instances(image_size, **found)


def usable(probs: Tensor, boxes: Tensor, image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """
    From a predictor's (R, K + 1) and (R, 4B) to scores (R, K) without background and boxes
    (R, B, 4) within the image. As in Detectron2, a RoI with any prediction that is not finite is
    no detection: its scores are NaN here.
    """
    broken = ~(torch.isfinite(boxes).all(dim=1) & torch.isfinite(probs).all(dim=1))[:, None]
    clipped = Boxes(boxes.masked_fill(broken, 0.0).reshape(-1, 4))
    clipped.clip(image_size)
    scores = probs[:, :-1].masked_fill(broken, float("nan"))
    return scores, clipped.tensor.view(len(boxes), boxes.shape[1] // 4, 4)


def _check_proposals(record: dict[str, Any]) -> None:
    name, size = record.get("file_name", "a record"), tuple(record["image"].shape[-2:])
    if "proposals" not in record:
        how = "MODEL.LOAD_PROPOSALS True, and DATASETS.PROPOSAL_FILES_TEST to a file that has them"
        raise InputError(f"{name}: the model takes proposals, and it has none; set {how}")
    if (found := tuple(record["proposals"].image_size)) != size:
        how = "resize them together, as DatasetMapper does"
        raise InputError(f"{name}: proposals are for an image of {found}, and it has {size}; {how}")
