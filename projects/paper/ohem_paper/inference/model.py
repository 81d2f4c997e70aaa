"""
The paper's test-time extras for any R-CNN of Detectron2: multi-scale testing ("+M") and iterative
box regression with box voting ("+B"), each alone or both, by configuration keys that are off by
default. ::

    add_test_time_config(cfg)                   # before the file is merged
    ...
    model = build_model(cfg)
    DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    model = with_test_time_extras(cfg, model)   # the same model if nothing is enabled

Multi-scale training needs nothing of this: it is Detectron2's ``INPUT.MIN_SIZE_TRAIN`` with
``MIN_SIZE_TRAIN_SAMPLING: "choice"``, which scales precomputed proposals, too.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from box_branch import box_branch
from box_voting import Candidates, above_threshold, iterate, nms, union, vote
from detectron2.config import CfgNode, configurable
from detectron2.data.transforms import ResizeTransform
from detectron2.modeling import GeneralizedRCNN, detector_postprocess
from detectron2.modeling.roi_heads import (
    CascadeROIHeads,
    FastRCNNOutputLayers,
)
from detectron2.structures import Boxes, Instances
from torch import nn
from torch.nn.parallel import DistributedDataParallel

# What scores and regresses RoIs: feature maps by name and RoIs, one Instances for each image ->
# for each image class probabilities (R, K + 1), background last, and boxes (R, 4 or 4K).
Scorer = Callable[
    [dict[str, torch.Tensor], list[Instances]], tuple[list[torch.Tensor], list[torch.Tensor]]
]


@dataclasses.dataclass(frozen=True)
class MultiScale:
    """
    The keys of ``TEST.MULTI_SCALE`` in lower case, checked on construction.

    Raises:
        ValueError: names the key, its value and what is allowed.
    """

    enabled: bool = False
    # Short sides to which each image is resized (the paper's for testing; for training they are
    # 480, 576, 688, 864, 900). Sizes that come out equal under the cap are run once. Empty: the
    # size in which the image comes, for flips alone.
    min_sizes: tuple[int, ...] = (480, 576, 688, 864, 1000)
    # Cap of the long side, which precedes the short side. The paper names a cap for the sake of
    # memory; 1000 is Fast R-CNN's at a single scale, which caps several scales at 2000.
    max_size: int = 1000
    # Run each scale a second time with the image mirrored. The paper does not.
    flip: bool = False

    def __post_init__(self) -> None:
        _check_flags("TEST.MULTI_SCALE", ENABLED=self.enabled, FLIP=self.flip)
        size = self.max_size
        _check("TEST.MULTI_SCALE.MAX_SIZE", size, _is_count(size), "a whole number >= 1")
        _check(
            "TEST.MULTI_SCALE.MIN_SIZES",
            self.min_sizes,
            isinstance(self.min_sizes, (list, tuple))
            and all(_is_count(short) and short <= size for short in self.min_sizes),
            f"a list of whole numbers from 1 to MAX_SIZE, which is {size}",
        )


@dataclasses.dataclass(frozen=True)
class BoxVoting:
    """
    The keys of ``TEST.BOX_VOTING`` in lower case, checked on construction.

    Raises:
        ValueError: names the key, its value and what is allowed.
    """

    enabled: bool = False
    # How often boxes are scored and regressed: 1 for voting alone, 2 for R1 and R2 (the paper).
    iterations: int = 2
    # Of boxes of a class that overlap by more than this IoU, the highest scoring one is kept; in
    # place of MODEL.ROI_HEADS.NMS_THRESH_TEST, which counts without voting.
    nms_thresh: float = 0.3
    # Boxes that overlap one that was kept by at least this IoU vote on its place.
    vote_thresh: float = 0.5

    def __post_init__(self) -> None:
        _check_flags("TEST.BOX_VOTING", ENABLED=self.enabled)
        count = self.iterations
        _check("TEST.BOX_VOTING.ITERATIONS", count, _is_count(count), "a whole number >= 1")
        for key, value in (("NMS_THRESH", self.nms_thresh), ("VOTE_THRESH", self.vote_thresh)):
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            holds = number and 0 <= value <= 1
            _check(f"TEST.BOX_VOTING.{key}", value, holds, "an IoU from 0 to 1")


def add_test_time_config(cfg: CfgNode) -> None:
    """Add ``TEST.MULTI_SCALE`` and ``TEST.BOX_VOTING`` with their defaults, in place."""
    for name, settings in (("MULTI_SCALE", MultiScale()), ("BOX_VOTING", BoxVoting())):
        defaults = dataclasses.asdict(settings)
        cfg.TEST[name] = CfgNode({key.upper(): value for key, value in defaults.items()})


def with_test_time_extras(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """
    Args:
        model: with its weights loaded: the names of its parameters change in the wrapper.

    Returns:
        the model itself if the configuration enables nothing, else the model in a
        :class:`RCNNWithTestTimeExtras`.

    Raises:
        ValueError, TypeError: see there; bad values are found even when not enabled.
    """
    settings = _settings(cfg)
    if not any(s.enabled for s in settings.values()):
        return model
    return RCNNWithTestTimeExtras(model, **settings)


class RCNNWithTestTimeExtras(nn.Module):
    """
    A ``GeneralizedRCNN`` that tests at several scales, or refines its boxes by iterative
    regression and voting, or both. Input and output are the model's own in evaluation.

    +M: the network runs on the image at every scale. The candidates of all scales (boxes that
    score above ``MODEL.ROI_HEADS.SCORE_THRESH_TEST``, for each class) are brought to the
    coordinates of the image as it came and go through one NMS together. So a box of any scale may
    suppress, or vote for, one of any other. (Fast R-CNN and SPPnet instead give each RoI to the
    one scale at which its area is nearest to 224 x 224; the paper is said to run all scales, and
    does not say how it unites them.) Images come as the data loader resized them; set
    ``INPUT.MIN_SIZE_TEST`` to 0 to have each scale made of the original pixels.

    Proposals of a record are scaled and mirrored with its image. Where an RPN proposes, it does so
    at every scale.

    +B: see ``box_voting``. R2 is computed at the scale of its R1, and again only from boxes that
    score above ``SCORE_THRESH_TEST``. Scores stay those of the boxes that NMS keeps.

    ``TEST.DETECTIONS_PER_IMAGE`` counts after NMS, as usual. Masks and keypoints are then
    predicted for the final boxes on the image as it came, without other scales; that takes one
    more pass of the backbone.
    """

    @configurable
    def __init__(
        self,
        model: nn.Module,
        *,
        multi_scale: MultiScale | None = None,
        box_voting: BoxVoting | None = None,
    ):
        """
        With a ``CfgNode``: ``RCNNWithTestTimeExtras(cfg, model)``.

        Args:
            model: a ``GeneralizedRCNN``, also in a ``DistributedDataParallel``. Its ROI heads are
                Detectron2's or OHEM's standard, C4 or cascade heads or build on them, or any
                others with a ``score_rois`` such as that of ``OHEMMixin``.
            multi_scale, box_voting: off if None.

        Raises:
            TypeError: for a model or heads of another kind, which says what is missing.
        """
        super().__init__()
        if isinstance(model, DistributedDataParallel):
            model = model.module
        inference = getattr(type(model), "inference", None)
        if not isinstance(model, GeneralizedRCNN) or inference is not GeneralizedRCNN.inference:
            raise TypeError(
                "TEST.MULTI_SCALE and TEST.BOX_VOTING take a GeneralizedRCNN with the inference() "
                f"of that class, which {type(model).__name__} is not"
            )
        self.model = model
        self.multi_scale = multi_scale or MultiScale()
        self.box_voting = box_voting or BoxVoting()
        self._score = box_scorer(model.roi_heads)

    @classmethod
    def from_config(cls, cfg: CfgNode, model: nn.Module) -> dict[str, Any]:
        return {"model": model, **_settings(cfg)}

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Instances]]:
        """
        Args:
            batched_inputs: see ``GeneralizedRCNN.forward``. As many images are run at a time, at
                each scale.

        Returns:
            see there.

        Raises:
            ValueError: if the model takes precomputed proposals and a record has none that fit it.
        """
        if self.training:
            raise RuntimeError(
                "RCNNWithTestTimeExtras is for evaluation: call eval(), or train the model in it"
            )
        if self.model.proposal_generator is None:
            for record in batched_inputs:
                _check_proposals(record)
        views = [self._views(record) for record in batched_inputs]
        found: list[list[Candidates]] = [[] for _ in batched_inputs]
        for same_rank in itertools.zip_longest(*views):
            members = [i for i, view in enumerate(same_rank) if view is not None]
            records = [same_rank[i].of_record(batched_inputs[i]) for i in members]
            for i, candidates in zip(members, self._detect(records)):
                found[i].append(same_rank[i].undo(candidates))
        results = [
            self._merge(union(parts), record["image"].shape[-2:])
            for parts, record in zip(found, batched_inputs)
        ]
        heads = self.model.roi_heads
        if getattr(heads, "mask_on", False) or getattr(heads, "keypoint_on", False):
            return self.model.inference(batched_inputs, detected_instances=results)
        return [
            {
                "instances": detector_postprocess(
                    result,
                    record.get("height", result.image_size[0]),
                    record.get("width", result.image_size[1]),
                )
            }
            for result, record in zip(results, batched_inputs)
        ]

    def _views(self, record: dict[str, Any]) -> list["View"]:
        size = tuple(record["image"].shape[-2:])
        if not self.multi_scale.enabled:
            return [View(size, size, False)]
        settings = self.multi_scale
        sizes = [_resized(size, short, settings.max_size) for short in settings.min_sizes] or [size]
        flips = (False, True) if settings.flip else (False,)
        return list(dict.fromkeys(View(size, s, f) for s in sizes for f in flips))

    def _detect(self, records: list[dict[str, Any]]) -> list[Candidates]:
        """What the network finds in each image, in its coordinates, before any NMS."""
        model = self.model
        images = model.preprocess_image(records)
        features = model.backbone(images.tensor)
        if model.proposal_generator is None:
            proposals = [record["proposals"].to(model.device) for record in records]
        else:
            proposals, _ = model.proposal_generator(images, features, None)

        thresh = _predictors(model.roi_heads)[-1].test_score_thresh
        found = []
        for i, (probs, boxes) in enumerate(zip(*self._score(features, proposals))):
            size = images.image_sizes[i]
            candidates = above_threshold(*_usable(probs, boxes, size), thresh)
            if self.box_voting.enabled:
                of_image = {name: feature[i : i + 1] for name, feature in features.items()}
                # As many at a time as there were proposals, which bounds the memory.
                predict = functools.partial(self._predict, of_image, size, len(probs))
                candidates = iterate(candidates, predict, self.box_voting.iterations, thresh)
            found.append(candidates)
        return found

    def _predict(
        self,
        features: dict[str, torch.Tensor],
        image_size: tuple[int, int],
        chunk_size: int,
        boxes: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Score and regress boxes (R, 4) of one image: scores (R, K), boxes (R, B, 4)."""
        parts = []
        for chunk in boxes.split(chunk_size):
            (probs,), (regressed,) = self._score(
                features, [Instances(image_size, proposal_boxes=Boxes(chunk))]
            )
            parts.append(_usable(probs, regressed, image_size))
        return tuple(torch.cat(columns) for columns in zip(*parts))

    def _merge(self, candidates: Candidates, image_size: tuple[int, int]) -> Instances:
        predictor = _predictors(self.model.roi_heads)[-1]
        voting = self.box_voting
        nms_thresh = voting.nms_thresh if voting.enabled else predictor.test_nms_thresh
        kept = nms(candidates, nms_thresh, predictor.test_topk_per_image)
        boxes = candidates.boxes[kept]
        if voting.enabled:
            boxes = vote(candidates, kept, voting.vote_thresh)
        return Instances(
            tuple(image_size),
            pred_boxes=Boxes(boxes),
            scores=candidates.scores[kept],
            pred_classes=candidates.classes[kept],
        )


class View(NamedTuple):
    """An image of size ``base`` (height, width), resized to ``size``, then mirrored or not."""

    base: tuple[int, int]
    size: tuple[int, int]
    flip: bool

    def of_record(self, record: dict[str, Any]) -> dict[str, Any]:
        """The record with its image and proposals in this view; the input is not changed."""
        if self.size == self.base and not self.flip:
            return record
        record = dict(record)
        image = record["image"]
        if self.size != self.base:
            # Detectron2's own resampling, as in the data loader
            array = ResizeTransform(*self.base, *self.size).apply_image(
                np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())
            )
            image = torch.as_tensor(np.ascontiguousarray(array.transpose(2, 0, 1)))
        record["image"] = image.flip(-1) if self.flip else image
        if "proposals" in record:
            fields = dict(record["proposals"].get_fields())
            boxes = fields["proposal_boxes"].tensor
            boxes = self._mirrored(boxes * boxes.new_tensor(self._scale()))
            fields["proposal_boxes"] = Boxes(boxes)
            record["proposals"] = Instances(self.size, **fields)
        return record

    def undo(self, candidates: Candidates) -> Candidates:
        """From the coordinates of this view to those of the image."""
        if self.size == self.base and not self.flip:
            return candidates
        scale = candidates.boxes.new_tensor(self._scale())
        return candidates._replace(boxes=self._mirrored(candidates.boxes) / scale)

    def _scale(self) -> list[float]:
        (height, width), (new_height, new_width) = self.base, self.size
        return [new_width / width, new_height / height] * 2

    def _mirrored(self, boxes: torch.Tensor) -> torch.Tensor:
        if not self.flip:
            return boxes
        x0, y0, x1, y1 = boxes.unbind(dim=1)
        width = self.size[1]
        return torch.stack([width - x1, y0, width - x0, y1], dim=1)


def box_scorer(heads: nn.Module) -> Scorer:
    """
    What gives the class probabilities and regressed boxes of given RoIs, as the box branch of
    these ROI heads does in evaluation before NMS. A cascade runs all its stages.

    Raises:
        TypeError: for heads whose box branch is not known.
    """
    name = type(heads).__name__
    for predictor in _predictors(heads):
        inference = getattr(type(predictor), "inference", None)
        if inference is not FastRCNNOutputLayers.inference:
            raise TypeError(
                f"TEST.MULTI_SCALE and TEST.BOX_VOTING take a box predictor that detects as "
                f"FastRCNNOutputLayers does; {name} has {type(predictor).__name__}, whose "
                "inference() is another"
            )
    if isinstance(heads, CascadeROIHeads) and (
        type(heads)._forward_box is CascadeROIHeads._forward_box
    ):
        return functools.partial(_score_by_cascade, heads)
    predict = box_branch(heads, "TEST.MULTI_SCALE and TEST.BOX_VOTING")
    return functools.partial(_score_once, predict)


def _score_once(predict: Callable, features, proposals):
    predictor, predictions = predict(features, proposals)
    return (
        predictor.predict_probs(predictions, proposals),
        predictor.predict_boxes(predictions, proposals),
    )


def _score_by_cascade(heads: CascadeROIHeads, features, proposals):
    """Boxes of the last stage, probabilities averaged over the stages."""
    features = [features[f] for f in heads.box_in_features]
    sizes = [p.image_size for p in proposals]
    probs, boxes = [], []
    for stage, predictor in enumerate(heads.box_predictor):
        if stage > 0:
            proposals = heads._create_proposals_from_boxes(boxes, sizes)
        predictions = heads._run_stage(features, proposals, stage)
        probs.append(predictor.predict_probs(predictions, proposals))
        boxes = predictor.predict_boxes(predictions, proposals)
    return [sum(of_image) * (1.0 / len(probs)) for of_image in zip(*probs)], boxes


def _usable(
    probs: torch.Tensor, boxes: torch.Tensor, image_size: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
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


def _predictors(heads: nn.Module) -> list[nn.Module]:
    """One for each stage; the last one has the thresholds of the test."""
    predictor = getattr(heads, "box_predictor", None)
    return list(predictor) if isinstance(predictor, nn.ModuleList) else [predictor]


def _resized(size: tuple[int, int], short: int, max_size: int) -> tuple[int, int]:
    """
    As Detectron2's ``ResizeShortestEdge``, with its order of roundings, but that draws from the
    global random state.
    """
    scale = short / min(size)
    sides = [short if side == min(size) else scale * side for side in size]
    if max(sides) > max_size:
        scale = max_size / max(sides)
        sides = [scale * side for side in sides]
    height, width = (max(int(side + 0.5), 1) for side in sides)
    return height, width


def _check_proposals(record: dict[str, Any]) -> None:
    name = record.get("file_name", "a record")
    if "proposals" not in record:
        raise ValueError(
            f"{name}: the model has no proposal generator, so the record needs proposals: set "
            "MODEL.LOAD_PROPOSALS to True and DATASETS.PROPOSAL_FILES_TEST to a file that has them"
        )
    found, size = record["proposals"].image_size, tuple(record["image"].shape[-2:])
    if tuple(found) != size:
        raise ValueError(
            f"{name}: the proposals are for an image of {found[0]} x {found[1]} (height x width), "
            f"but it has {size[0]} x {size[1]}; resize them together, as DatasetMapper does"
        )


def _settings(cfg: CfgNode) -> dict[str, Any]:
    """The arguments of the wrapper; keys or whole nodes may be missing (defaults)."""
    settings = {"multi_scale": MultiScale, "box_voting": BoxVoting}
    for name, cls in settings.items():
        node = cfg.TEST.get(name.upper(), {})
        settings[name] = cls(**{key.lower(): value for key, value in node.items()})
    return settings


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _check_flags(node: str, **flags: Any) -> None:
    for key, value in flags.items():
        _check(f"{node}.{key}", value, isinstance(value, bool), "True or False")


def _check(key: str, value: Any, holds: bool, allowed: str) -> None:
    if not holds:
        raise ValueError(f"{key} = {value!r}; allowed: {allowed}")
