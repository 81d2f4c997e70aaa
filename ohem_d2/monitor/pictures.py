"""What was mined, as pictures of Detectron2's event storage."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage

from ..mining.record import Mining
from .drawing import draw_mined_rois, with_caption, zoom_for


class MiningPictures:
    """
    Every so many iterations a picture of the first image of the batch, ``ohem/mined``: all
    proposals in grey, survivors of NMS in yellow, mined RoIs in blue (foreground) and red
    (background), the hardest with their ranking loss, ground truth in green.
    """

    NUM_LABELS = 25  # losses of more RoIs would hide each other

    def __init__(
        self,
        period: int,
        *,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        input_format: str,
    ):
        """
        Every ``period`` iterations, at least 1, of a model's input in "BGR" or another of
        Detectron2's INPUT.FORMAT, normalized with this mean and standard deviation.
        """
        self._period = period
        self._mean = torch.tensor(pixel_mean).view(-1, 1, 1)
        self._std = torch.tensor(pixel_std).view(-1, 1, 1)
        self._format = input_format

    @classmethod
    def from_cfg(cls, cfg: Any) -> "MiningPictures | None":
        """None if VIS_PERIOD is 0."""
        if cfg.VIS_PERIOD <= 0:
            return None
        return cls(
            cfg.VIS_PERIOD,
            pixel_mean=cfg.MODEL.PIXEL_MEAN,
            pixel_std=cfg.MODEL.PIXEL_STD,
            input_format=cfg.INPUT.FORMAT,
        )

    def due(self) -> bool:
        """Only the main process has a writer that takes the pictures out of the storage."""
        return get_event_storage().iter % self._period == 0 and comm.is_main_process()

    def show(self, mining: Mining) -> None:
        """Put a picture of the mining into the event storage."""
        image = mining.image.detach().float().cpu() * self._std + self._mean
        if not self._format.startswith("YUV"):  # which is in float, from 0 to 1
            image = image.round().clamp(0, 255).byte()
        image = convert_image_to_rgb(image.permute(1, 2, 0), self._format)
        losses = mining.ranking[mining.hard[: self.NUM_LABELS]].tolist()
        picture = draw_mining(mining, image, [f"{loss:.2f}" for loss in losses])
        name = "ohem/mined" if mining.stage == 0 else f"stage{mining.stage}/ohem/mined"
        get_event_storage().put_image(name, picture.transpose(2, 0, 1))


def draw_mining(mining: Mining, image: np.ndarray, labels: Sequence[str] = ()) -> np.ndarray:
    """
    A picture of what was mined, uint8 and RGB, with a caption that says what is what. The image is
    such a one, (H, W, 3), of any size: boxes are scaled to it. Labels are written at the first of
    the mined RoIs.
    """
    height, width = image.shape[:2]
    factor = np.array([width, height] * 2) / ([mining.image.shape[2], mining.image.shape[1]] * 2)
    boxes, proposals, ground_truth = (
        boxes.tensor.detach().cpu().numpy() * factor
        for boxes in (mining.rois.proposal_boxes, mining.proposals, mining.target.gt_boxes)
    )
    survivors, hard = mining.survivors.cpu().numpy(), mining.hard.cpu().numpy()
    foreground = mining.is_foreground.cpu().numpy()[hard]
    losses = mining.ranking[mining.hard].tolist()
    picture = draw_mined_rois(
        *(image, proposals, boxes[hard], foreground, ground_truth, zoom_for(height, width)),
        survivors=boxes[survivors],
        labels=labels,
    )
    bounds = f", losses {losses[0]:.2f} to {losses[-1]:.2f}" if losses else ""
    return with_caption(
        picture,
        f"{len(mining.proposals)} proposals (grey), {len(survivors)} of {len(boxes)} candidates "
        f"left by NMS (yellow), {len(hard)} mined{bounds}: {foreground.sum()} foreground (blue), "
        f"{(~foreground).sum()} background (red). Ground truth: green",
    )
