"""
OHKM, the mining of the hardest joints: OHEM's idea one level down. A person trains on the joints
whose loss is highest (Chen et al., "Cascaded Pyramid Network for Multi-Person Pose Estimation",
CVPR 2018, the loss of its RefineNet).

Shape shorthand: R RoIs over all images, K joints, S the side of a heatmap.
"""

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling.roi_heads import KRCNNConvDeconvUpsampleHead
from detectron2.modeling.roi_heads.keypoint_head import (
    ROI_KEYPOINT_HEAD_REGISTRY,
    keypoint_rcnn_loss,
)
from detectron2.structures import Instances, Keypoints
from detectron2.utils.events import get_event_storage
from torch import Tensor
from torch.nn import functional as F

from ohem_d2.mining.selection import order_by_loss

TOPK = 8  # of 17 joints: the best of those that the paper tries


def add_ohkm_config(cfg: CfgNode) -> None:
    """Add the key ``MODEL.ROI_KEYPOINT_HEAD.OHKM_TOPK`` with its default, unless it is there."""
    # How many joints of a person OHKMKeypointHead trains on, up to NUM_KEYPOINTS
    cfg.MODEL.ROI_KEYPOINT_HEAD.setdefault("OHKM_TOPK", TOPK)


def per_joint_losses(logits: Tensor, instances: list[Instances]) -> tuple[Tensor, Tensor]:
    """
    The loss of each joint, as Detectron2's ``keypoint_rcnn_loss`` defines it before it takes the
    sum: softmax cross entropy over the S x S bins of its heatmap. ``logits`` are (R, K, S, S); the
    R instances have ``proposal_boxes`` in absolute XYXY pixels and ``gt_keypoints``.

    Returns:
        losses, float32 of shape (R, K), 0 for joints that have none; and which joints have one,
        bool of shape (R, K): those that are visible and lie in the RoI's box.
    """
    some = [x for x in instances if len(x) > 0]  # the others have no heatmaps
    shape, side = logits.shape[:2], logits.shape[2]
    if not some:
        return logits.new_zeros(shape).float(), logits.new_zeros(shape, dtype=torch.bool)
    maps = [x.gt_keypoints.to_heatmap(x.proposal_boxes.tensor, side) for x in some]
    target, visible = (torch.cat(parts) for parts in zip(*maps))
    scores = logits.float().flatten(2).flatten(0, 1)
    losses = F.cross_entropy(scores, target.flatten(), reduction="none").view(shape)
    return torch.where(visible > 0, losses, 0.0), visible > 0


def hardest_joints(losses: Tensor, visible: Tensor, topk: int) -> Tensor:
    """
    bool of shape (R, K), like ``visible`` and the losses: the ``topk`` (M in the paper) visible
    joints of each RoI with the highest losses, or all of them if there are fewer. NaN and infinity
    are the hardest; equal losses keep their order.
    """
    order = order_by_loss(losses)
    # A stable sort by visibility on top of that by loss
    order = order.gather(1, torch.sort(~visible.gather(1, order), dim=1, stable=True).indices)
    return torch.zeros_like(visible).scatter(1, order[:, :topk], True) & visible


@ROI_KEYPOINT_HEAD_REGISTRY.register()
class OHKMKeypointHead(KRCNNConvDeconvUpsampleHead):
    """
    Detectron2's keypoint head with OHKM: the easier joints of each RoI count as invisible, and
    the loss is then the parent's. With NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS it is the mean over the
    hard joints, else their sum over the parent's fixed number. It logs ``ohkm/mean_all`` and
    ``ohkm/mean_hard``, the mean losses of all visible joints and of the hard ones.
    """

    @configurable
    def __init__(self, input_shape: Any, *, topk: int = TOPK, **kwargs: Any):
        """
        The parent's arguments, and ``topk``, the number of joints of a RoI that are trained on.
        ValueError if there are not that many.
        """
        super().__init__(input_shape, **kwargs)
        if type(topk) is not int or not 0 < topk <= self.num_keypoints:
            raise ValueError(
                f"MODEL.ROI_KEYPOINT_HEAD.OHKM_TOPK = {topk!r}; allowed: a whole number from 1 to "
                f"MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS, which is {self.num_keypoints}"
            )
        self.topk = topk

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Any) -> dict[str, Any]:
        topk = cfg.MODEL.ROI_KEYPOINT_HEAD.get("OHKM_TOPK", TOPK)
        return {**super().from_config(cfg, input_shape), "topk": topk}

    def forward(self, x: Tensor, instances: list[Instances]) -> Any:
        """See the parent."""
        if not self.training:
            return super().forward(x, instances)
        logits = self.layers(x)
        losses, visible = per_joint_losses(logits.detach(), instances)
        hard = hardest_joints(losses, visible, self.topk)
        parts = torch.stack([visible, hard])
        means = torch.where(parts, losses, 0.0).sum((1, 2)) / parts.sum((1, 2)).clamp(min=1)
        mean_all, mean_hard = means.tolist()  # one transfer from the device
        get_event_storage().put_scalars(**{"ohkm/mean_all": mean_all, "ohkm/mean_hard": mean_hard})

        only_hard = []
        for image, of_image in zip(instances, hard.split(list(map(len, instances)))):
            if len(image) > 0:
                joints = image.gt_keypoints.tensor.clone()
                joints[:, :, 2] *= of_image
                fields = {"proposal_boxes": image.proposal_boxes, "gt_keypoints": Keypoints(joints)}
                image = Instances(image.image_size, **fields)
            only_hard.append(image)
        fixed = self.loss_normalizer != "visible"
        normalizer = len(instances) * self.loss_normalizer if fixed else None
        loss = keypoint_rcnn_loss(logits, only_hard, normalizer) * self.loss_weight
        return {"loss_keypoint": loss}
