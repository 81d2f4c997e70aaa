"""Records of a training call of the heads, and of what is mined in it."""

import dataclasses
from typing import Any

from detectron2.structures import Instances
from torch import Tensor


@dataclasses.dataclass
class Call:
    """A ``forward`` call of the heads in training: what the sampler hook needs but is not given."""

    images: Any
    features: dict[str, Tensor]
    is_iteration: bool  # False: no gradients are recorded, as in PreciseBN or a validation loss
    sampled: bool = False  # the sampler hook was called
    num_labelled: int | None = None  # images labelled for mining so far; None: not mining
    # for each call of the hook: the losses, each (R,), that its mined RoIs were ranked by
    ranked: list[dict[str, Tensor]] = dataclasses.field(default_factory=list)
    stage: int = 0  # the current one, in a cascade with CASCADE_STAGES "all"
    refined: list[list[Tensor]] = dataclasses.field(default_factory=list)  # boxes[chunk][image]


@dataclasses.dataclass(frozen=True)
class Mining:
    """
    One selection among the R candidates of N images. Boxes are in absolute pixels of the images as
    the network sees them. Places are indices into the candidates of all images, concatenated.
    """

    images: Any  #: an ``ImageList``, normalized
    proposals: list[Instances]  #: all labelled RoIs of each image; in a cascade, those of the stage
    targets: list[Instances]  #: the ground truth of each image
    rois: list[Instances]  #: the candidates of each image
    image_index: Tensor  #: int64 of shape (R,)
    is_foreground: Tensor  #: bool of shape (R,)
    losses: dict[str, Tensor]  #: "loss_cls" and "loss_box_reg", each of shape (R,)
    ranking: Tensor  #: (R,), the loss that candidates are ranked by
    survivors: Tensor  #: int64, places of the survivors of NMS by loss, hardest first
    hard: Tensor  #: int64, places of the mined RoIs, hardest first
    hard_of_image: list[Tensor]  #: the same for each image, as indices into its candidates
    stage: int = 0  #: the stage of a cascade that mined
