"""The records of a training call and of what is mined in it."""

import dataclasses
from typing import Any

from detectron2.structures import Instances
from torch import Tensor


@dataclasses.dataclass
class Call:
    """A call of the heads' ``forward`` in training: what the sampler hook is not told."""

    images: Any
    features: dict[str, Tensor]
    is_iteration: bool  # else no gradients are recorded, as by PreciseBN or for a validation loss
    sampled: bool = False  # the hook was reached
    num_labelled: int | None = None  # images that were labelled to be mined; None: not mining
    # for each call of the hook the losses, each (R,), that its mined RoIs were ranked by
    ranked: list[dict[str, Tensor]] = dataclasses.field(default_factory=list)
    stage: int = 0  # of a cascade all of whose stages mine
    refined: list[list[Tensor]] = dataclasses.field(default_factory=list)  # boxes, by chunk, image


@dataclasses.dataclass(frozen=True)
class Mining:
    """
    One selection among the R candidates of N images. Boxes are pixels of the images as the network
    sees them; places are among the candidates of all images together.
    """

    images: Any  #: an ``ImageList``, normalized
    proposals: list[Instances]  #: all labelled RoIs of each image; of a cascade those of the stage
    targets: list[Instances]  #: the ground truth of each image
    rois: list[Instances]  #: the candidates of each image
    image_index: Tensor  #: int64 of shape (R,)
    is_foreground: Tensor  #: bool of shape (R,)
    losses: dict[str, Tensor]  #: "loss_cls" and "loss_box_reg", each of shape (R,)
    ranking: Tensor  #: (R,), what the candidates are ranked by
    survivors: Tensor  #: int64, places of those that NMS by loss left, hardest first
    hard: Tensor  #: int64, places of those that are mined, hardest first
    hard_of_image: list[Tensor]  #: the same for each image, as indices into its candidates
    stage: int = 0  #: of a cascade
