"""What was mined, as scalars of Detectron2's event storage, and warnings when it looks wrong."""

import logging

import torch
from detectron2.utils.events import get_event_storage

from ..mining.record import Record

# A child of Detectron2's logger, so that every script that sets up that one shows our lines.
LOGGER_NAME = "detectron2.ohem_d2"
logger = logging.getLogger(LOGGER_NAME)

# Detectron2's own scalars of what it samples. Where all RoIs are labelled they would count these,
# so they are kept back, and logged for what was mined.
COUNTS = ("roi_head/num_fg_samples", "roi_head/num_bg_samples")

# A kind starves if over so many iterations it is at most this share of the mined RoIs, and at
# most that share of the candidates of its kind was mined. Background is the larger part of what
# there is to learn, so it starves earlier.
_WINDOW = 200
_STARVING_SHARE = {"foreground": 0.05, "background": 0.15}
_STARVING_USE = 0.1

_REMEDIES = {
    "background": (
        "The localization loss outweighs the classification loss in the ranking. Lower "
        "MODEL.ROI_HEADS.OHEM.RANK_LOC_WEIGHT or raise MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA"
    ),
    "foreground": (
        "Foreground is learned, or drowns in background. Raise "
        "MODEL.ROI_HEADS.OHEM.RANK_LOC_WEIGHT or MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE"
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

    def log(self, record: Record, stage: int = 0, prefix: str = "") -> None:
        """
        Of a selection at a stage of a cascade, as Detectron2 counts the RoIs of each. Our scalars'
        names begin with the prefix.
        """
        losses, ranking, chosen = record.losses, record.ranking, record.chosen
        num_images = len(record.rois)
        finite = torch.isfinite(ranking)
        for loss in losses.values():  # also of one that is left out of the ranking
            finite = finite & torch.isfinite(loss)
        hard = torch.zeros_like(finite)
        hard[chosen] = True
        cuts = torch.where(finite, ranking, float("inf"))[chosen]
        cuts = torch.full((num_images,), float("inf"), device=cuts.device).scatter_reduce(
            0, record.image_index[chosen], cuts, "amin"
        )
        # One transfer from the device for all numbers.
        numbers = {
            "candidate_fg": record.is_foreground.sum(),
            "fg": (record.is_foreground & hard).sum(),
            "nonfinite": (~finite).sum(),
            "cut": _mean(cuts, torch.isfinite(cuts)),
        }
        for name, loss in (("cls", losses["loss_cls"]), ("loc", losses["loss_box_reg"])):
            numbers[f"{name}_all"] = _mean(loss, finite)
            numbers[f"{name}_hard"] = _mean(loss, finite & hard)
        values = torch.stack([number.double() for number in numbers.values()]).tolist()
        n = dict(zip(numbers, values))

        storage = get_event_storage()
        num_fg, num_bg = n["fg"] / num_images, (len(chosen) - n["fg"]) / num_images
        scalars = {
            "num_candidates": len(ranking) / num_images,
            "num_survivors": len(record.survivors) / num_images,
            "num_fg": num_fg,
            "num_bg": num_bg,
            "num_nonfinite": n["nonfinite"] / num_images,
            "cut": n["cut"],
        }
        for name in ("cls_all", "loc_all", "cls_hard", "loc_hard"):
            scalars[f"mean_{name}"] = n[name]
        for name, value in scalars.items():
            storage.put_scalar(f"{prefix}ohem/{name}", value)
        for name, value in zip(COUNTS, (num_fg, num_bg)):
            storage.put_scalar(f"stage{stage}/{name}" if stage else name, value)

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
        if self._available["foreground"] == 0:
            self._warn_once(
                "no foreground",
                f"In the last {_WINDOW} iterations no RoI was foreground: there was no object that "
                "one could overlap. Look at the boxes of the training data",
            )
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


def _mean(values: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Mean of the values at ``where``; 0 if there are none."""
    return torch.where(where, values, 0.0).sum() / where.sum().clamp(min=1)
