"""
The paper's training-loss figure (Sec. 5.5): the mean loss over all RoIs of the training set,
whatever the sampler trains on, so that samplers can be compared by it.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.engine import HookBase
from detectron2.evaluation import inference_context
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.roi_heads import CascadeROIHeads, StandardROIHeads
from detectron2.structures import Boxes, Instances, pairwise_iou
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ohem_d2 import OHEMMixin, per_roi_losses
from ohem_d2.mining.candidates import labels_of_all
from ohem_d2.tools.data.records import records_of
from ohem_d2.tools.errors import InputError


def label_all(proposals: Instances, targets: Instances, num_classes: int) -> Instances:
    """
    All RoIs of an image, including its objects, with ``gt_classes`` and ``gt_boxes``. RoIs with an
    IoU >= 0.5 are foreground, all others background, whatever the heads' own sampler uses.
    """
    boxes = Boxes.cat([proposals.proposal_boxes, targets.gt_boxes])
    matched, labels = Matcher([0.5], [0, 1])(pairwise_iou(targets.gt_boxes, boxes))
    fields = {"gt_classes": labels_of_all(matched, labels, targets.gt_classes, num_classes)}
    fields["gt_boxes"] = targets.gt_boxes[matched] if len(targets) else boxes
    return Instances(proposals.image_size, proposal_boxes=boxes, **fields)


def score_boxes(
    heads: nn.Module, features: dict[str, Tensor], proposals: list[Instances]
) -> tuple[nn.Module, Any]:
    """
    The box predictor and its predictions for all RoIs: an ``Instances`` with ``proposal_boxes`` for
    each image. Features are maps by name. Raises TypeError unless the heads score boxes as
    ``StandardROIHeads`` or OHEM's heads do, in one stage.
    """
    standard = getattr(type(heads), "_forward_box", None) is StandardROIHeads._forward_box
    if not (standard or isinstance(heads, OHEMMixin)) or isinstance(heads, CascadeROIHeads):
        name, allowed = type(heads).__name__, "StandardROIHeads or heads of ohem_d2, no cascade"
        raise TypeError(f"{name} scores boxes in another way; allowed: {allowed}")
    return getattr(type(heads), "score_rois", OHEMMixin.score_rois)(heads, features, proposals)


@torch.no_grad()
def losses_of_all_rois(model: GeneralizedRCNN, inputs: dict[str, Any]) -> dict[str, Tensor]:
    """
    ``loss_cls`` and ``loss_box_reg`` of each of the R RoIs of an image, each (R,), by the model's
    own losses (background has no box loss). ``inputs`` have ``proposals`` and ``instances``, as
    the training's mapper makes them. The model is in evaluation mode, so dropout is off.
    """
    features = model.backbone(model.preprocess_image([inputs]).tensor)
    proposals, targets = (inputs[key].to(model.device) for key in ("proposals", "instances"))
    rois = label_all(proposals, targets, model.roi_heads.num_classes)
    return per_roi_losses(*score_boxes(model.roi_heads, features, [rois]), [rois])


def mean_loss(model: nn.Module, dataset: Iterable[dict[str, Any]]) -> dict[str, float]:
    """The mean of each loss over all RoIs of all images, and their sum, ``loss``."""
    model = model.module if isinstance(model, DistributedDataParallel) else model
    totals, num_rois = Counter(), 0
    with inference_context(model):
        for inputs in dataset:
            losses = losses_of_all_rois(model, inputs)
            num_rois += len(losses["loss_cls"])
            totals.update({name: loss.sum().item() for name, loss in losses.items()})
    means = {name: total / max(num_rois, 1) for name, total in totals.items()}
    return {**means, "loss": sum(means.values())}


class TrainingImages:
    """Training images as for a test, with proposals and objects. InputError without proposals."""

    def __init__(self, cfg: CfgNode):
        if not cfg.MODEL.LOAD_PROPOSALS:
            raise InputError("TRAINING_LOSS.PERIOD > 0 takes MODEL.LOAD_PROPOSALS = True")
        records = [r for name in cfg.DATASETS.TRAIN for r in records_of(cfg, name, "TRAIN")]
        num = cfg.TRAINING_LOSS.NUM_IMAGES or len(records)
        self.records = records[:: max(len(records) // num, 1)][:num]
        short = cfg.INPUT.MIN_SIZE_TRAIN
        resize = T.ResizeShortestEdge(short[len(short) // 2], cfg.INPUT.MAX_SIZE_TRAIN, "choice")
        self.mapper = DatasetMapper(cfg, is_train=True, augmentations=[resize])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for record in self.records:
            # The mapper draws the size, though there is one only, from the training's random state.
            state = np.random.get_state()
            inputs = self.mapper(record)
            np.random.set_state(state)
            yield inputs


class TrainingLossHook(HookBase):
    """
    Writes ``training_loss/loss_cls``, ``training_loss/loss_box_reg`` and their sum, every PERIOD
    iterations and at the end, under the number of iterations that the weights have seen. It must
    come before the hook that times iterations.
    """

    def __init__(self, cfg: CfgNode):
        self._images, self._period = TrainingImages(cfg), cfg.TRAINING_LOSS.PERIOD

    def before_step(self) -> None:
        if self.trainer.iter % self._period == 0:
            self.after_train()

    def after_train(self) -> None:
        for name, value in mean_loss(self.trainer.model, self._images).items():
            self.trainer.storage.put_scalar(f"training_loss/{name}", value, smoothing_hint=False)
