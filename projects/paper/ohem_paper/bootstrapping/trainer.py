"""
Classic bootstrapping, which OHEM takes the place of (paper Sec. 1 and 2): train on a fixed working
set of RoIs, freeze the model, run it over the whole data set, add its false positives to the
set, and go on (Sung and Poggio 1994; Felzenszwalb et al. 2010, Sec. 4). ::

    python projects/paper/train.py --config-file FILE [--resume] SOLVER.TRAINER bootstrapping

FILE is of a Fast R-CNN with precomputed proposals and Detectron2's own heads, such as
``configs/voc07/bootstrapping_vgg16_n2.yaml``. SOLVER.MAX_ITER is split evenly over
BOOTSTRAP.ROUNDS rounds, with one learning rate schedule and one optimizer throughout; after each
round but the last comes a sweep. In a round the heads sample from the working set with their
BATCH_SIZE_PER_IMAGE and POSITIVE_FRACTION; they add the objects themselves to it.

``metrics.json`` then has, under ``bootstrap/``, for each round: ``num_foreground`` and
``num_background`` RoIs trained on, ``train_seconds``, and of the sweep after it ``sweep_seconds``,
``num_false_positives``, ``num_added`` and ``num_dropped``; at the end ``sweep_share``, the part of
the time that went into sweeps. The log has a line for each round. Every checkpoint has the working
set in it; ``model_round_N.pth`` is saved after the N-th sweep.
"""

import dataclasses
import logging
import math
import time
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from box_branch import box_branch
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetMapper,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.engine import HookBase
from detectron2.engine.hooks import PeriodicWriter
from detectron2.evaluation import inference_context
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, CascadeROIHeads, StandardROIHeads
from detectron2.structures import Boxes, BoxMode, Instances, pairwise_iou
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng

from ohem_d2 import CrowdDatasetMapper, IgnoreRegions, OHEMMixin
from ohem_d2.data.crowds import inside_ignore_region
from ohem_d2.monitor.scalars import LOGGER_NAME
from ohem_d2.training.trainer import OHEMTrainer

logger = logging.getLogger(LOGGER_NAME)

# Labels of proposals
IGNORED, BACKGROUND, FOREGROUND = -1, 0, 1

# What a sweep counts
_COUNTS = ("num_false_positives", "num_added", "num_dropped")


# ---- configuration -----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class BootstrapSettings:
    """
    The keys of ``BOOTSTRAP`` in lower case, checked on construction.

    Raises:
        ValueError: names the key, its value and what is allowed.
    """

    # Rounds of training on a fixed working set; between them are ROUNDS - 1 sweeps.
    rounds: int = 4
    # So many background proposals of each image, chosen at random, are in the first working set;
    # all foreground ones are.
    initial_background: int = 64
    # A background RoI is a false positive if its highest score of an object class is above this.
    score_thresh: float = 0.1
    # Background of the working set that scores below this in a sweep is dropped, as easy examples
    # are in Felzenszwalb et al. 2010. 0: nothing is, the set only grows.
    keep_thresh: float = 0.0
    # At most so many false positives of an image are added in a sweep, those with the highest
    # scores. 0: all.
    max_per_image: int = 100

    def __post_init__(self) -> None:
        self._allow("rounds", lambda v: v >= 1, "a whole number >= 1", whole=True)
        for name in ("initial_background", "max_per_image"):
            self._allow(name, lambda v: v >= 0, "a whole number >= 0", whole=True)
        self._allow("score_thresh", lambda v: 0 <= v < 1, "a score from 0 to below 1")
        self._allow(
            "keep_thresh",
            lambda v: 0 <= v <= self.score_thresh,
            f"a score from 0 to SCORE_THRESH, which is {self.score_thresh}, so that what is added "
            "is not dropped",
        )

    @classmethod
    def from_cfg(cls, cfg: CfgNode) -> "BootstrapSettings":
        """
        Read ``cfg.BOOTSTRAP``; keys or the whole node may be missing (defaults).

        Raises:
            ValueError: also if there are more rounds than iterations.
        """
        settings = cls(**{key.lower(): value for key, value in cfg.get("BOOTSTRAP", {}).items()})
        settings._allow(
            "rounds",
            lambda v: v <= cfg.SOLVER.MAX_ITER,
            f"up to SOLVER.MAX_ITER, which is {cfg.SOLVER.MAX_ITER}",
        )
        return settings

    def _allow(self, name: str, holds: Any, allowed: str, whole: bool = False) -> None:
        value = getattr(self, name)
        kinds = (int,) if whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not holds(value):
            raise ValueError(f"BOOTSTRAP.{name.upper()} = {value!r}; allowed: {allowed}")


def add_bootstrap_config(cfg: CfgNode) -> None:
    """Add the node ``BOOTSTRAP`` with its defaults to a Detectron2 config, in place."""
    fields = dataclasses.fields(BootstrapSettings)
    cfg.BOOTSTRAP = CfgNode({field.name.upper(): field.default for field in fields})


def check_config(cfg: CfgNode) -> None:
    """
    Raises:
        ValueError: if the configuration is of a detector that cannot be bootstrapped here.
    """
    generator = cfg.MODEL.PROPOSAL_GENERATOR.NAME
    if not cfg.MODEL.LOAD_PROPOSALS or generator != "PrecomputedProposals":
        raise ValueError(
            f"MODEL.LOAD_PROPOSALS = {cfg.MODEL.LOAD_PROPOSALS!r} and "
            f"MODEL.PROPOSAL_GENERATOR.NAME = {generator!r}; allowed: True and "
            "'PrecomputedProposals', because a working set refers to proposals that stay the same"
        )
    if len(cfg.DATASETS.PROPOSAL_FILES_TRAIN) != len(cfg.DATASETS.TRAIN):
        raise ValueError(
            f"DATASETS.PROPOSAL_FILES_TRAIN = {cfg.DATASETS.PROPOSAL_FILES_TRAIN!r}; allowed: one "
            f"file for each of DATASETS.TRAIN, which is {cfg.DATASETS.TRAIN!r}"
        )
    name = cfg.MODEL.ROI_HEADS.NAME
    heads = ROI_HEADS_REGISTRY.get(name)
    if not issubclass(heads, StandardROIHeads) or issubclass(heads, (CascadeROIHeads, OHEMMixin)):
        raise ValueError(
            f"MODEL.ROI_HEADS.NAME = {name!r}; allowed: StandardROIHeads or heads that build on "
            "them, with one stage, and that do not mine by themselves"
        )


def round_of(iteration: int, max_iter: int, rounds: int) -> int:
    """The round, from 0, that an iteration belongs to; lengths of rounds differ by at most 1."""
    return iteration * rounds // max_iter


# ---- the algorithm, for the R proposals of one image -------------------------------------------


def label_proposals(
    boxes: Boxes, target: Instances, matcher: Matcher, ioa_thresh: float
) -> torch.Tensor:
    """
    Args:
        boxes: R proposals, absolute XYXY pixels.
        target: the ground truth, with ``gt_boxes`` and perhaps ``ignore_regions``.
        matcher: the heads', which turns IoUs into labels.
        ioa_thresh: background inside a crowd region by this share of its area is ignored.

    Returns:
        int8 of shape (R,): FOREGROUND, BACKGROUND or IGNORED.
    """
    labels = matcher(pairwise_iou(target.gt_boxes, boxes))[1]
    crowd = inside_ignore_region(boxes, target, ioa_thresh)
    return torch.where((labels == BACKGROUND) & crowd, IGNORED, labels).to(torch.int8)


def initial_set(
    labels: torch.Tensor, num_background: int, generator: torch.Generator
) -> torch.Tensor:
    """
    Args:
        labels: of shape (R,).

    Returns:
        int64, ascending: indices of all foreground and of ``num_background`` random background
        proposals, or of all if there are fewer.
    """
    background = torch.nonzero(labels == BACKGROUND).squeeze(1)
    order = torch.randperm(len(background), generator=generator)
    foreground = torch.nonzero(labels == FOREGROUND).squeeze(1)
    return torch.cat([foreground, background[order[:num_background]]]).sort().values


def find_false_positives(
    scores: torch.Tensor, labels: torch.Tensor, score_thresh: float
) -> torch.Tensor:
    """
    Args:
        scores: of shape (R,), the highest of an object class.
        labels: of shape (R,).

    Returns:
        int64: indices of background that scores above ``score_thresh``, highest scores first.
    """
    found = torch.nonzero((labels == BACKGROUND) & (scores > score_thresh)).squeeze(1)
    return found[torch.sort(scores[found], descending=True, stable=True).indices]


def shrink(
    indices: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor, keep_thresh: float
) -> torch.Tensor:
    """
    Args:
        indices: int64, the working set.
        scores, labels: of all proposals, each of shape (R,).

    Returns:
        ``indices`` without background that scores below ``keep_thresh``.
    """
    easy = (labels[indices] == BACKGROUND) & (scores[indices] < keep_thresh)
    return indices[~easy]


def merge(indices: torch.Tensor, found: torch.Tensor, max_added: int) -> torch.Tensor:
    """
    Args:
        indices: int64, the working set.
        found: int64, what is to be added, most important first.
        max_added: of those that are not in the set yet, at most so many; 0: all.

    Returns:
        int64, ascending: the grown set.
    """
    new = found[~torch.isin(found, indices)]
    return torch.cat([indices, new[: max_added or None]]).sort().values


# ---- the working set of a data set -------------------------------------------------------------


class WorkingSet:
    """
    Which proposals of which image are trained on.

    Attributes:
        records: images in Detectron2's format, with all proposals: float32, absolute XYXY pixels,
            none empty.
        labels: of the proposals of each image, see :func:`label_proposals`.
        indices: of the proposals of each image that are in the set; int64, ascending.
        round: the set is that of this round, from 0.
    """

    def __init__(
        self, records: list[dict], labels: list[torch.Tensor], num_background: int, seed: int
    ):
        """
        Args:
            num_background: of each image, see :func:`initial_set`.
            seed: of the random choice.
        """
        self.records = records
        self.labels = labels
        generator = torch.Generator().manual_seed(seed)
        self.indices = [initial_set(part, num_background, generator) for part in labels]
        self.round = 0

    @classmethod
    def from_cfg(cls, cfg: CfgNode) -> "WorkingSet":
        """The first one; the same in all processes."""
        records = get_detection_dataset_dicts(
            cfg.DATASETS.TRAIN,
            filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
            proposal_files=cfg.DATASETS.PROPOSAL_FILES_TRAIN,
        )
        matcher = Matcher(
            cfg.MODEL.ROI_HEADS.IOU_THRESHOLDS,
            cfg.MODEL.ROI_HEADS.IOU_LABELS,
            allow_low_quality_matches=False,
        )
        ioa_thresh = cfg.MODEL.ROI_HEADS.OHEM.IGNORE_IOA_THRESH  # as the miner's
        topk = cfg.DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN
        records = [_with_proposals_inside(record, topk) for record in records]
        labels = [
            label_proposals(Boxes(r["proposal_boxes"]), _ground_truth(r), matcher, ioa_thresh)
            for r in records
        ]
        seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
        return cls(records, labels, BootstrapSettings.from_cfg(cfg).initial_background, seed)

    def records_to_train_on(self) -> list[dict]:
        """The records with the proposals of the set alone."""
        return [_with_proposals(r, i.numpy()) for r, i in zip(self.records, self.indices)]

    def count(self) -> dict[str, int]:
        """Of RoIs in the set, ``num_foreground`` and ``num_background``."""
        labels = torch.cat([part[i] for part, i in zip(self.labels, self.indices)])
        return {
            "num_foreground": int((labels == FOREGROUND).sum()),
            "num_background": int((labels == BACKGROUND).sum()),
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            "round": self.round,
            "indices": torch.cat(self.indices),
            "sizes": [len(part) for part in self.indices],
            "proposals": self._digest(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """
        Raises:
            ValueError: if the state is of other proposals.
        """
        if state["proposals"] != self._digest():
            raise ValueError(
                "The working set in the checkpoint is of other proposals than these. Resume with "
                "the same DATASETS.TRAIN, DATASETS.PROPOSAL_FILES_TRAIN and "
                "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN, or start anew in another OUTPUT_DIR"
            )
        self.indices = list(state["indices"].split(state["sizes"]))
        self.round = state["round"]

    def _digest(self) -> int:
        digest = 0
        for record in self.records:
            digest = zlib.crc32(np.ascontiguousarray(record["proposal_boxes"]), digest)
        return digest


def _with_proposals(record: dict, indices: np.ndarray) -> dict:
    kept = dict(record)
    for key in ("proposal_boxes", "proposal_objectness_logits"):
        kept[key] = record[key][indices]
    return kept


def _with_proposals_inside(record: dict, topk: int) -> dict:
    """
    The first ``topk`` proposals, as XYXY, that the mapper does not drop as empty. So an index means
    the same before and after it.
    """
    boxes = BoxMode.convert(
        np.asarray(record["proposal_boxes"], dtype="float32"),
        record["proposal_bbox_mode"],
        BoxMode.XYXY_ABS,
    )
    record = {**record, "proposal_boxes": boxes, "proposal_bbox_mode": BoxMode.XYXY_ABS}
    clipped = Boxes(boxes.copy())
    clipped.clip((record["height"], record["width"]))
    # A hundredth of a pixel is still there after rounding in a smaller image.
    inside = np.flatnonzero(clipped.nonempty(threshold=0.01).numpy())
    return _with_proposals(record, inside[:topk])


def _ground_truth(record: dict) -> Instances:
    """Objects and crowd regions of an image, before any transformation."""
    annotations = record.get("annotations", [])
    crowd = np.array([bool(a.get("iscrowd", 0)) for a in annotations], dtype=bool)
    boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations]
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    target = Instances((record["height"], record["width"]), gt_boxes=Boxes(boxes[~crowd]))
    target.ignore_regions = IgnoreRegions(Boxes(boxes[crowd]), len(target))
    return target


class WorkingSetLoader:
    """
    Endless batches of images with the proposals of the working set. When the set moves on to
    another round, the next batch is of the new one: the loader behind this, whose worker processes
    hold copies of the old one, is built anew.
    """

    def __init__(self, cfg: CfgNode, working_set: WorkingSet):
        self.cfg = cfg
        self.working_set = working_set

    def __iter__(self) -> Iterator[list[dict]]:
        while True:
            current = self.working_set.round
            loader = build_detection_train_loader(
                self.cfg,
                mapper=CrowdDatasetMapper(self.cfg, is_train=True),
                dataset=self.working_set.records_to_train_on(),
            )
            for batch in loader:
                yield batch
                if self.working_set.round != current:
                    break


# ---- the sweep ---------------------------------------------------------------------------------


def score_proposals(model: torch.nn.Module, inputs: list[dict]) -> list[torch.Tensor]:
    """
    Args:
        model: a ``GeneralizedRCNN`` with ``StandardROIHeads``, in evaluation mode.
        inputs: images with ``proposals``, R of an image.

    Returns:
        for each image the highest score of an object class of each proposal, of shape (R,).
    """
    images = model.preprocess_image(inputs)
    features = model.backbone(images.tensor)
    proposals = [x["proposals"].to(model.device) for x in inputs]
    predictor, predictions = box_branch(model.roi_heads, "Bootstrapping")(features, proposals)
    scores = predictor.predict_probs(predictions, proposals)
    return [part[:, :-1].amax(dim=1) for part in scores]  # background is the last


def sweep(
    cfg: CfgNode, model: torch.nn.Module, working_set: WorkingSet
) -> tuple[list[torch.Tensor], dict[str, int]]:
    """
    Run the frozen model over every image at the size for tests, with all its proposals; several
    processes share the images. The model and ``working_set`` stay as they are.

    Returns:
        the indices of the next working set; and how many ``num_false_positives`` there are in the
        data set, ``num_added`` and ``num_dropped`` RoIs.
    """
    settings = BootstrapSettings.from_cfg(cfg)
    loader = build_detection_test_loader(
        [{**record, "place": i} for i, record in enumerate(working_set.records)],
        mapper=DatasetMapper(
            cfg,
            is_train=False,
            precomputed_proposal_topk=cfg.DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN,
        ),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )
    swept, counts = {}, dict.fromkeys(_COUNTS, 0)
    with inference_context(model), torch.no_grad():
        for inputs in loader:
            for x, scores in zip(inputs, score_proposals(model, inputs)):
                place, scores = x["place"], scores.cpu()
                before, labels = working_set.indices[place], working_set.labels[place]
                found = find_false_positives(scores, labels, settings.score_thresh)
                kept = shrink(before, scores, labels, settings.keep_thresh)
                swept[place] = merge(kept, found, settings.max_per_image)
                counts["num_false_positives"] += len(found)
                counts["num_added"] += len(swept[place]) - len(kept)
                counts["num_dropped"] += len(before) - len(kept)
    parts = comm.all_gather((swept, counts))
    everywhere = {place: indices for part, _ in parts for place, indices in part.items()}
    totals = {name: sum(part[name] for _, part in parts) for name in _COUNTS}
    return [everywhere[place] for place in range(len(working_set.records))], totals


# ---- training ----------------------------------------------------------------------------------


class SweepBetweenRounds(HookBase):
    """Ends a round: sweep, next working set, checkpoint."""

    def before_train(self) -> None:
        # The sweep is missing if the run was killed in it.
        self._go_on_to(self.trainer.start_iter)

    def after_step(self) -> None:
        trainer = self.trainer
        if trainer.iter + 1 == trainer.max_iter:
            trainer.end_round()
        elif self._go_on_to(trainer.iter + 1):
            # Not the name that the periodic checkpoint may have just now: a file that a resumed
            # run would read is not written again.
            trainer.checkpointer.save(f"model_round_{trainer.working_set.round}")

    def _go_on_to(self, iteration: int) -> bool:
        """Whether a round begins with this iteration, and its set had to be found first."""
        trainer = self.trainer
        rounds = BootstrapSettings.from_cfg(trainer.cfg).rounds
        if iteration >= trainer.max_iter:
            return False
        here = round_of(iteration, trainer.max_iter, rounds)
        before = trainer.working_set.round
        if here > before:
            trainer.end_round(next_round=here)
        if iteration > 0 and round_of(iteration - 1, trainer.max_iter, rounds) < here:
            trainer.seed_round()
        return here > before


class BootstrapTrainer(OHEMTrainer):
    """
    Trains in rounds, with a sweep between them. It is used as ``DefaultTrainer`` is.

    The working set is a part of every checkpoint. With a SEED each round but the first starts from
    a random state of its own, so that a run that is resumed after a sweep goes on as if it had not
    been interrupted.

    Attributes:
        history: for each round that has ended the numbers that are logged, by name.
    """

    def __init__(self, cfg: CfgNode):
        """
        Raises:
            ValueError: if the configuration is not one to bootstrap with.
        """
        check_config(cfg)
        self.history: list[dict[str, float]] = []
        self._train_seconds = 0.0  # of this round
        super().__init__(cfg)
        logger.info(
            "Bootstrapping is active: {} rounds; the first working set has {num_foreground} "
            "foreground and {num_background} background RoIs, of {} proposals in {} images".format(
                BootstrapSettings.from_cfg(cfg).rounds,
                sum(map(len, self.working_set.labels)),
                len(self.working_set.records),
                **self.working_set.count(),
            )
        )

    @property
    def working_set(self) -> WorkingSet:
        return self.data_loader.working_set

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> WorkingSetLoader:
        return WorkingSetLoader(cfg, WorkingSet.from_cfg(cfg))

    def build_hooks(self) -> list[HookBase]:
        hooks = super().build_hooks()
        # After all that a checkpoint needs, and before what is logged is written.
        writers = [i for i, hook in enumerate(hooks) if isinstance(hook, PeriodicWriter)]
        hooks.insert(writers[0] if writers else len(hooks), SweepBetweenRounds())
        return hooks

    def run_step(self) -> None:
        start = time.perf_counter()
        super().run_step()
        self._train_seconds += time.perf_counter() - start

    def end_round(self, next_round: int | None = None) -> None:
        """Sweep if there is a next round, and log what this one was."""
        numbers = {**self.working_set.count(), "train_seconds": self._train_seconds}
        self._train_seconds = 0.0
        line = (
            "Bootstrapping, round {}: {train_seconds:.1f} s of training with {num_foreground} "
            "foreground and {num_background} background RoIs"
        )
        if next_round is not None:
            start = time.perf_counter()
            model = self.checkpointer.model  # without the wrapper for several processes
            indices, counts = sweep(self.cfg, model, self.working_set)
            numbers.update(counts, sweep_seconds=time.perf_counter() - start)
            line += (
                "; the sweep took {sweep_seconds:.1f} s and found {num_false_positives} false "
                "positives, {num_added} are added; {num_dropped} easy RoIs are dropped"
            )
        logger.info(line.format(self.working_set.round + 1, **numbers))
        self.history.append(numbers)
        for name, value in numbers.items():
            self.storage.put_scalar(f"bootstrap/{name}", value, smoothing_hint=False)
        if next_round is not None:
            self.working_set.indices, self.working_set.round = indices, next_round
            return
        trained = math.fsum(part["train_seconds"] for part in self.history)
        swept = math.fsum(part.get("sweep_seconds", 0.0) for part in self.history)
        share = swept / (trained + swept)
        self.storage.put_scalar("bootstrap/sweep_share", share, smoothing_hint=False)
        logger.info(
            f"Bootstrapping: {trained:.1f} s of training and {swept:.1f} s of sweeps, "
            f"{share:.0%} of the time"
        )

    def seed_round(self) -> None:
        if self.cfg.SEED >= 0:
            # Far from the seeds of other runs, which are usually SEED + 1, SEED + 2...
            seed_all_rng(self.cfg.SEED + 10_007 * self.working_set.round + comm.get_rank())

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        state["bootstrap"] = {
            "working_set": self.working_set.state_dict(),
            "history": self.history,
            "train_seconds": self._train_seconds,
        }
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """
        Raises:
            ValueError: if the checkpoint is not of a bootstrapping run on the same proposals.
        """
        if "bootstrap" not in state_dict:
            raise ValueError(
                f"The last checkpoint in OUTPUT_DIR = {self.cfg.OUTPUT_DIR!r} has no working set: "
                "it is of a run without bootstrapping. Choose another OUTPUT_DIR, with that file "
                "as MODEL.WEIGHTS if training is to start from it"
            )
        super().load_state_dict(state_dict)
        state = state_dict["bootstrap"]
        self.working_set.load_state_dict(state["working_set"])
        self.history = state["history"]
        self._train_seconds = state["train_seconds"]
