"""Mine over many images: the share of each class, and the hardest images."""

import dataclasses
import logging
import math
from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from detectron2.data.detection_utils import read_image
from torch import nn

from .drawing import encode, mined_picture
from .explain import mine
from .load_data import image_mapper

logger = logging.getLogger(__name__)

_NUM_LABELS = 10  # of RoIs whose loss is written on a picture


@dataclasses.dataclass
class ClassCount:
    """Counts for one class or background, over the images gone over."""

    name: str
    foreground: bool  #: whether it is a class, which may be called "background" too
    objects: int = 0  #: in the ground truth
    candidates: int = 0  #: RoIs of this label
    mined: int = 0  #: likewise
    loss: float = 0.0  #: sum of the ranking losses of the mined ones


@dataclasses.dataclass
class HardImage:
    """An image, and what was mined on it."""

    file: str  #: its name
    loss: float  #: mean ranking loss of the mined RoIs
    foreground: int  #: how many of these were mined
    background: int  #: likewise
    objects: int  #: in the ground truth
    picture: bytes = b""  #: of the mined RoIs, as a JPEG file; empty where none was drawn


def sweep_images(
    cfg: CfgNode,
    model: nn.Module,
    records: Sequence[dict],
    classes: Sequence[str] | None,
    num_hardest: int,
) -> tuple[list[ClassCount], list[HardImage]]:
    """
    Mine on each image, in a cascade at its first stage. Returns the counts of all classes that
    occur, from the most to the least mined, and so many images with the highest mean ranking loss
    of mined RoIs, with pictures. InputError names an image that cannot be mined on. Without
    ``classes`` their numbers are the names.
    """
    to_inputs, num_classes = image_mapper(cfg), cfg.MODEL.ROI_HEADS.NUM_CLASSES
    names = [*(classes or map(str, range(num_classes))), "background"]
    totals = torch.zeros(4, num_classes + 1, dtype=torch.float64)
    images = []
    for i, record in enumerate(records):
        mining = mine(model, to_inputs(record))[0]
        hard, labels = mining.hard.cpu(), mining.rois[0].gt_classes.cpu()
        losses, mined = mining.ranking.cpu().double()[hard], labels[hard]
        for total, kind in zip(totals, (mining.targets[0].gt_classes.cpu(), labels, mined)):
            total += torch.bincount(kind, minlength=num_classes + 1)
        totals[3].index_add_(0, mined, losses)
        foreground, mean = int((mined < num_classes).sum()), losses.sum().item() / max(len(hard), 1)
        counted = foreground, len(hard) - foreground, len(mining.targets[0])
        images.append((HardImage(record["file_name"], mean, *counted), record))
        if (i + 1) % 10 == 0:
            logger.info(f"Mined on {i + 1} of {len(records)} images")
    counts = [
        ClassCount(names[i], i < num_classes, *map(int, numbers), loss)
        for i, (*numbers, loss) in enumerate(totals.T.tolist())
        if any(numbers)
    ]
    counts.sort(key=lambda count: -count.mined)
    # A mean that is not finite is the hardest.
    images.sort(key=lambda pair: -pair[0].loss if math.isfinite(pair[0].loss) else -math.inf)
    for image, record in images[:num_hardest]:
        mining = mine(model, to_inputs(record))[0]  # the same again
        labels = [f"{loss:.2f}" for loss in mining.ranking[mining.hard[:_NUM_LABELS]].tolist()]
        picture = mined_picture(mining, read_image(record["file_name"], "RGB"), labels)
        image.picture = encode(picture, ".jpg")
    return counts, [image for image, _ in images[:num_hardest]]
