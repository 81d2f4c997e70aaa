"""What was mined, as scalars of Detectron2's event storage, and warnings when it looks wrong."""

import logging
from collections import Counter

import torch
from detectron2.utils.events import get_event_storage
from torch import Tensor

from ..mining.record import Mining

logger = logging.getLogger(__name__)

# Foreground or background starves if, over this many iterations, it is at most this share of the
# mined RoIs, although less than a tenth of its candidates was mined.
_WINDOW, _STARVING = 200, {"foreground": 0.05, "background": 0.15}
_REMEDY = {
    "foreground": "Foreground is either learned, or drowned out by background. Raise "
    "MODEL.ROI_HEADS.OHEM.RANK_LOC_WEIGHT or MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE",
    "background": "The localization loss outweighs the classification loss in the ranking. Lower "
    "MODEL.ROI_HEADS.OHEM.RANK_LOC_WEIGHT or raise MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA",
}
_NOT_REACHED = (
    "none overlaps a RoI by as much as MODEL.ROI_HEADS.IOU_THRESHOLDS. Lower it, or set "
    "MODEL.ROI_HEADS.PROPOSAL_APPEND_GT True"
)


def log_mining(mining: Mining, prefix: str = "") -> dict[str, float]:
    """
    Put scalars into the event storage, averaged over the images, and return them: numbers and mean
    losses of candidates (with SCREENING: those scored exactly), NMS survivors and mined RoIs, and
    ``cut``, the lowest ranking loss mined. No name has "loss": Detectron2 would print it as one.
    """
    ranking, hard, num_images = mining.ranking, mining.hard, len(mining.rois)
    finite = torch.isfinite(torch.stack([ranking, *mining.losses.values()])).all(dim=0)
    is_hard = torch.zeros_like(finite).index_fill(0, hard, True)
    cuts = ranking.new_full((num_images,), float("inf")).scatter_reduce(
        0, mining.image_index[hard], torch.where(finite, ranking, float("inf"))[hard], "amin"
    )
    numbers = {
        "num_candidates_fg": mining.is_foreground.sum() / num_images,
        "num_fg": (mining.is_foreground & is_hard).sum() / num_images,
        "num_nonfinite": (~finite).sum() / num_images,
        "cut": _mean(cuts, torch.isfinite(cuts)),
    }
    for name, loss in (("cls", mining.losses["loss_cls"]), ("loc", mining.losses["loss_box_reg"])):
        numbers[f"mean_{name}_all"] = _mean(loss, finite)
        numbers[f"mean_{name}_hard"] = _mean(loss, finite & is_hard)
    # One transfer from the device for all numbers
    scalars = dict(zip(numbers, torch.stack([n.double() for n in numbers.values()]).tolist()))
    scalars["num_bg"] = len(hard) / num_images - scalars["num_fg"]
    scalars["num_candidates"] = len(ranking) / num_images
    scalars["num_survivors"] = len(mining.survivors) / num_images
    storage, stage = get_event_storage(), f"stage{mining.stage}/" if mining.stage else ""
    storage.put_scalars(**{f"{prefix}ohem/{name}": value for name, value in scalars.items()})
    for kind in ("fg", "bg"):  # Detectron2's own names, for each stage of a cascade
        storage.put_scalar(f"{stage}roi_head/num_{kind}_samples", scalars[f"num_{kind}"])
    return scalars


class MiningMonitor:
    """Logs each selection, and warns once about each thing that looks wrong."""

    def __init__(self) -> None:
        self._said: set[str] = set()
        self._sums: Counter = Counter()
        self._window_start = 0

    def say_once(self, message: str, what: str = "") -> None:
        """Warn, unless the message is empty or there was a warning about ``what`` before."""
        if message and (what or message) not in self._said:
            self._said.add(what or message)
            logger.warning(message)

    def look_at(self, mining: Mining, prefix: str, is_iteration: bool) -> None:
        """Log a selection, see :func:`log_mining`. Warn only if it is of a training iteration."""
        scalars, iteration = log_mining(mining, prefix), get_event_storage().iter
        if not is_iteration:
            return
        if (num := scalars["num_nonfinite"] * len(mining.rois)) > 0:
            of = f"{num:.0f} of {len(mining.ranking)} RoIs have a NaN or infinite loss in iteration"
            remedy = "mined first. If training diverges, lower SOLVER.BASE_LR or clip gradients"
            self.say_once(f"{of} {iteration}, and are {remedy}", "nonfinite")
        if not self._sums:
            self._window_start = iteration
        self._sums.update({name: value * len(mining.rois) for name, value in scalars.items()})
        self._sums["objects"] += sum(map(len, mining.targets))
        if iteration - self._window_start >= _WINDOW:  # not calls: cascades may mine several times
            self._look_at_window()
            self._sums.clear()

    def _look_at_window(self) -> None:
        sums, window = self._sums, f"In the last {_WINDOW} iterations"
        num_fg, num_bg, there_fg = sums["num_fg"], sums["num_bg"], sums["num_candidates_fg"]
        if there_fg == 0:
            cause = "there was no object. Look at the boxes of the training data"
            if sums["objects"] > 0:
                cause = f"of {sums['objects']} objects {_NOT_REACHED}"
            self.say_once(f"{window} no RoI was foreground: {cause}", "no foreground")
        there = {"foreground": there_fg, "background": sums["num_candidates"] - there_fg}
        for kind, num in (("foreground", num_fg), ("background", num_bg)):
            if num <= _STARVING[kind] * (num_fg + num_bg) and num < 0.1 * there[kind]:
                of = f"of {num_fg + num_bg:.0f} mined RoIs were {kind}, of {there[kind]:.0f}"
                self.say_once(f"{window} {num:.0f} {of} {kind} candidates. {_REMEDY[kind]}", kind)


def _mean(values: Tensor, where: Tensor) -> Tensor:
    return torch.where(where, values, 0.0).sum() / where.sum().clamp(min=1)
