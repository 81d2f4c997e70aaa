"""
What was mined, as scalars and pictures of Detectron2's event storage, and warnings when it looks
wrong.
"""

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage

# A child of Detectron2's logger, so that every script that sets up that one shows our lines.
LOGGER_NAME = "detectron2.ohem_d2"
logger = logging.getLogger(LOGGER_NAME)

# A kind starves if over so many iterations it is at most this share of the mined RoIs, and at
# most that share of the candidates of its kind was mined. Background is the larger part of what
# there is to learn, so it starves earlier.
_WINDOW = 200
_STARVING_SHARE = {"foreground": 0.05, "background": 0.15}
_STARVING_USE = 0.1

_REMEDIES = {
    "background": (
        "The localization loss outweighs the classification loss in the ranking. Lower "
        "MODEL.ROI_HEADS.OHEM.RANK_LOC_WEIGHT or raise MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA; "
        "MODEL.ROI_HEADS.OHEM.MIN_NEG_PER_IMAGE and MAX_FG_FRACTION enforce a share"
    ),
    "foreground": (
        "Foreground is learned, or drowns in background. Raise "
        "MODEL.ROI_HEADS.OHEM.RANK_LOC_WEIGHT; MODEL.ROI_HEADS.OHEM.MAX_NEG_PER_POS enforces a "
        "share"
    ),
}


class MiningEvents:
    """
    Logs, under ``ohem/`` and averaged over the images (with SCREENING, candidates are the RoIs that
    are scored exactly):

    - ``num_candidates``, ``num_survivors`` (of NMS), ``num_fg`` and ``num_bg`` (mined);
    - ``mean_cls_all``, ``mean_loc_all``, ``mean_cls_hard``, ``mean_loc_hard``: the classification
      and localization loss of all candidates and of the mined ones. No name contains "loss":
      Detectron2 would print it among the losses;
    - ``cut``: the lowest ranking loss that was mined;
    - ``num_nonfinite``: candidates whose loss is NaN or infinite.
    """

    def __init__(self) -> None:
        self._warned = set()
        self._mined = {"foreground": 0.0, "background": 0.0}
        self._available = {"foreground": 0.0, "background": 0.0}
        self._window_start: int | None = None

    def log(
        self,
        *,
        losses: dict[str, torch.Tensor],
        ranking: torch.Tensor,
        is_foreground: torch.Tensor,
        image_index: torch.Tensor,
        num_images: int,
        num_survivors: int,
        chosen: torch.Tensor,
    ) -> None:
        """
        Args:
            losses, ranking, is_foreground, image_index: of the R candidates, each of shape (R,).
            chosen: int64, indices of the mined ones.
        """
        finite = torch.isfinite(ranking)
        for loss in losses.values():  # also of one that is left out of the ranking
            finite = finite & torch.isfinite(loss)
        hard = torch.zeros_like(finite)
        hard[chosen] = True
        cuts = torch.where(finite, ranking, float("inf"))[chosen]
        cuts = torch.full((num_images,), float("inf"), device=cuts.device).scatter_reduce(
            0, image_index[chosen], cuts, "amin"
        )
        # One transfer from the device for all numbers.
        numbers = {
            "candidate_fg": is_foreground.sum(),
            "fg": (is_foreground & hard).sum(),
            "nonfinite": (~finite).sum(),
            "cut": _mean(cuts, torch.isfinite(cuts)),
        }
        for name, loss in (("cls", losses["loss_cls"]), ("loc", losses["loss_box_reg"])):
            numbers[f"{name}_all"] = _mean(loss, finite)
            numbers[f"{name}_hard"] = _mean(loss, finite & hard)
        values = torch.stack([number.double() for number in numbers.values()]).tolist()
        n = dict(zip(numbers, values))

        storage = get_event_storage()
        scalars = {
            "num_candidates": len(ranking) / num_images,
            "num_survivors": num_survivors / num_images,
            "num_fg": n["fg"] / num_images,
            "num_bg": (len(chosen) - n["fg"]) / num_images,
            "num_nonfinite": n["nonfinite"] / num_images,
            "cut": n["cut"],
        }
        for name in ("cls_all", "loc_all", "cls_hard", "loc_hard"):
            scalars[f"mean_{name}"] = n[name]
        for name, value in scalars.items():
            storage.put_scalar(f"ohem/{name}", value)

        if n["nonfinite"] > 0:
            self._warn_once(
                "nonfinite",
                f"{n['nonfinite']:.0f} of {len(ranking)} RoIs have a NaN or infinite loss in "
                f"iteration {storage.iter}. They are mined as the hardest. This message is not "
                "repeated; ohem/num_nonfinite goes on counting. Lower SOLVER.BASE_LR or set "
                "SOLVER.CLIP_GRADIENTS.ENABLED True if training diverges",
            )
        self._watch_starvation(
            {"foreground": n["fg"], "background": len(chosen) - n["fg"]},
            {
                "foreground": n["candidate_fg"],
                "background": len(ranking) - n["candidate_fg"],
            },
        )

    def _watch_starvation(self, mined: dict[str, float], available: dict[str, float]) -> None:
        for kind in mined:
            self._mined[kind] += mined[kind]
            self._available[kind] += available[kind]
        iteration = get_event_storage().iter  # a cascade may mine several times in one
        if self._window_start is None:
            self._window_start = iteration
        if iteration - self._window_start < _WINDOW:
            return
        total = sum(self._mined.values())
        for kind in mined:
            few = self._mined[kind] <= _STARVING_SHARE[kind] * total
            if few and self._mined[kind] < _STARVING_USE * self._available[kind]:
                self._warn_once(
                    kind,
                    f"In the last {_WINDOW} iterations {self._mined[kind]:.0f} of {total:.0f} "
                    f"mined RoIs were {kind}, of {self._available[kind]:.0f} {kind} candidates. "
                    f"{_REMEDIES[kind]}",
                )
        self._mined = dict.fromkeys(mined, 0.0)
        self._available = dict.fromkeys(mined, 0.0)
        self._window_start = iteration

    def _warn_once(self, what: str, message: str) -> None:
        if what not in self._warned:
            self._warned.add(what)
            logger.warning(message)


@dataclasses.dataclass(frozen=True)
class Mining:
    """
    What one selection decided for one image, with all that it knew.

    Attributes:
        image: (3, H, W), as the network sees it: normalized.
        proposals: all that the ROI heads were given; at a later stage of a cascade the boxes that
            reach it. Absolute XYXY pixels of ``image``, like all boxes here.
        target: the ground truth.
        rois: the R candidates, with ``proposal_boxes`` and ``gt_classes``.
        is_foreground: bool of shape (R,).
        losses: "loss_cls" and "loss_box_reg", each of shape (R,).
        ranking: (R,), what the candidates were ranked by.
        survivors: int64, the candidates that the NMS by loss left, hardest first.
        hard: int64, those that were mined, hardest first.
        stage: of a cascade; else 0.
    """

    image: torch.Tensor
    proposals: Boxes
    target: Instances
    rois: Instances
    is_foreground: torch.Tensor
    losses: dict[str, torch.Tensor]
    ranking: torch.Tensor
    survivors: torch.Tensor
    hard: torch.Tensor
    stage: int = 0


class MiningWatcher(Protocol):
    """Looks at what ROI heads mine: assign it to their attribute ``watcher``."""

    def due(self) -> bool:
        """Whether to show it the selections of this iteration."""

    def show(self, mining: Mining) -> None:
        """Called with each selection, for the first image of the batch."""


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
        Args:
            period: in iterations; at least 1.
            pixel_mean, pixel_std: what the model normalizes its input with.
            input_format: of the model's input, "BGR" or another of Detectron2's INPUT.FORMAT.
        """
        from . import visualization  # noqa: F401  now, not at the first picture: it takes OpenCV

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
    A picture of what was mined, with a caption that says what is what.

    Args:
        image: (H, W, 3), uint8, RGB, of any size: boxes are scaled to it.
        labels: what to write at the first of the mined RoIs.

    Returns:
        (H', W', 3), uint8, RGB.
    """
    # Here, as OpenCV does not load on every server, and training needs it only for pictures.
    from .visualization import draw_mined_rois, with_caption, zoom_for

    height, width = image.shape[:2]
    factor = np.array([width, height] * 2) / ([mining.image.shape[2], mining.image.shape[1]] * 2)
    boxes = _array(mining.rois.proposal_boxes.tensor) * factor
    hard, survivors = _array(mining.hard), _array(mining.survivors)
    foreground, losses = _array(mining.is_foreground)[hard], _array(mining.ranking)[hard]
    picture = draw_mined_rois(
        image,
        _array(mining.proposals.tensor) * factor,
        boxes[hard],
        foreground,
        _array(mining.target.gt_boxes.tensor) * factor,
        zoom_for(height, width),
        survivors=boxes[survivors],
        labels=labels,
    )
    bounds = f", losses {losses[0]:.2f} to {losses[-1]:.2f}" if len(losses) else ""
    return with_caption(
        picture,
        f"{len(mining.proposals)} proposals (grey), {len(survivors)} of {len(boxes)} candidates "
        f"left by NMS (yellow), {len(hard)} mined{bounds}: {foreground.sum()} foreground (blue), "
        f"{(~foreground).sum()} background (red). Ground truth: green",
    )


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


def _mean(values: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Mean of the values at ``where``; 0 if there are none."""
    return torch.where(where, values, 0.0).sum() / where.sum().clamp(min=1)
