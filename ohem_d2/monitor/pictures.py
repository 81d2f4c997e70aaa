"""Pictures of what was mined. VIS_PERIOD puts them into Detectron2's event storage."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch.nn import functional as F
from torchvision.utils import draw_bounding_boxes

from ..mining.record import Mining

FOREGROUND, BACKGROUND, GROUND_TRUTH = (0, 158, 255), (255, 64, 32), (120, 255, 60)  # RGB
PROPOSAL, SURVIVOR = (200, 200, 200), (255, 214, 0)
NUM_LABELS = 25  # more would hide each other


class MiningPictures:
    """
    A watcher of ROI heads. Every ``period`` iterations it logs ``ohem/mined``: :func:`draw_mining`
    with the losses of the hardest RoIs. Mean, deviation and format are those of the model's input.
    """

    def __init__(self, period: int, pixel_mean: Sequence, pixel_std: Sequence, input_format: str):
        self._period, self._format = period, input_format
        self._mean, self._std = (torch.tensor(x).view(-1, 1, 1) for x in (pixel_mean, pixel_std))

    @classmethod
    def from_cfg(cls, cfg: Any) -> "MiningPictures | None":
        """None if VIS_PERIOD is 0."""
        how = cfg.VIS_PERIOD, cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD, cfg.INPUT.FORMAT
        return cls(*how) if cfg.VIS_PERIOD > 0 else None

    def due(self) -> bool:
        """Every ``period`` iterations, in the main process: only that one has a writer."""
        return get_event_storage().iter % self._period == 0 and comm.is_main_process()

    def show(self, mining: Mining) -> None:
        """Put a picture of upright boxes into the event storage."""
        if mining.rois[0].proposal_boxes.tensor.shape[1] != 4:
            return
        image = mining.images[0].detach().float().cpu() * self._std + self._mean
        if not self._format.startswith("YUV"):  # YUV is float, from 0 to 1
            image = image.round().clamp(0, 255).byte()
        image = convert_image_to_rgb(image.permute(1, 2, 0), self._format)
        hard = mining.hard[mining.image_index[mining.hard] == 0][:NUM_LABELS]
        labels = [f"{loss:.2f}" for loss in mining.ranking[hard].tolist()]
        name = f"stage{mining.stage}/ohem/mined" if mining.stage else "ohem/mined"
        picture = draw_mining(mining, image, labels).transpose(2, 0, 1)
        get_event_storage().put_image(name, picture)


def draw_mining(mining: Mining, image: np.ndarray, labels: Sequence[str] = ()) -> np.ndarray:
    """
    Draw what was mined on the first image: proposals in grey, survivors of NMS in yellow, mined
    RoIs in blue (foreground) and red (background), objects in green. The hardest RoIs get the
    ``labels`` and bold lines. ``image`` is uint8 RGB, (H, W, 3), of any size; it is resized.
    """
    zoom = min(max(800 / min(image.shape[:2]), 1.0), 1600 / max(image.shape[:2]))
    height, width = (round(length * zoom) for length in image.shape[:2])
    picture = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float()
    picture = F.interpolate(picture, (height, width), mode="bilinear")[0].round().byte()
    seen_height, seen_width = mining.images[0].shape[-2:]
    factor = torch.tensor([width / seen_width, height / seen_height] * 2)

    def draw(picture: torch.Tensor, boxes: torch.Tensor, colors: Any, width: int, labels=None):
        how = {"colors": colors, "width": width, "labels": labels}
        return draw_bounding_boxes(picture, boxes.cpu() * factor, **how) if len(boxes) else picture

    candidates, hard = mining.rois[0].proposal_boxes.tensor, mining.hard_of_image[0].cpu()
    survivors = mining.survivors[mining.image_index[mining.survivors] == 0]
    # All proposals would hide the photograph, so they only tint it.
    veil = draw(picture, mining.proposals[0].proposal_boxes.tensor, PROPOSAL, 1)
    veil = draw(veil, candidates[survivors], SURVIVOR, 1)
    picture = (0.65 * picture + 0.35 * veil).round().byte()
    picture = draw(picture, mining.targets[0].gt_boxes.tensor, GROUND_TRUTH, 2)
    is_foreground = mining.is_foreground[: len(candidates)].cpu()[hard].tolist()
    colors = [FOREGROUND if foreground else BACKGROUND for foreground in is_foreground]
    for part, line in ((slice(len(labels), None), 1 if labels else 2), (slice(len(labels)), 4)):
        texts = list(labels)[part][::-1] or None  # the hardest last, so that it is on top
        picture = draw(picture, candidates[hard][part].flip(0), colors[part][::-1], line, texts)
    return picture.permute(1, 2, 0).numpy()
