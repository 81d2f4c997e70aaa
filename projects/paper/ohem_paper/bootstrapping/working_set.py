"""Which proposals are trained on, and the loader of these."""

import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_train_loader, get_detection_dataset_dicts
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, BoxMode, Instances
from detectron2.utils import comm

from ohem_d2 import CrowdDatasetMapper, IgnoreRegions

from ..proposals.recall import objects_of
from ..settings import BootstrapSettings
from .steps import BACKGROUND, FOREGROUND, initial_set, label_proposals


class WorkingSet:
    """
    Which proposals of which image are trained on.

    Attributes:
        records: images in Detectron2's format, with all proposals: float32, absolute XYXY pixels,
            none empty.
        labels: of the proposals of each image, see :func:`.label_proposals`.
        indices: of the proposals of each image that are in the set; int64, ascending.
        round: the set is that of this round, from 0.
    """

    def __init__(self, cfg: CfgNode):
        """The first one; the same in all processes."""
        records = get_detection_dataset_dicts(
            cfg.DATASETS.TRAIN,
            filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
            proposal_files=cfg.DATASETS.PROPOSAL_FILES_TRAIN,
        )
        heads, topk = cfg.MODEL.ROI_HEADS, cfg.DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN
        matcher = Matcher(heads.IOU_THRESHOLDS, heads.IOU_LABELS)
        ioa_thresh = heads.OHEM.IGNORE_IOA_THRESH  # as the miner's
        self.records = [_with_proposals_inside(record, topk) for record in records]
        self.labels = [
            label_proposals(Boxes(r["proposal_boxes"]), _ground_truth(r), matcher, ioa_thresh)
            for r in self.records
        ]
        seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
        generator = torch.Generator().manual_seed(seed)
        num_background = BootstrapSettings.from_cfg(cfg).initial_background
        self.indices = [initial_set(part, num_background, generator) for part in self.labels]
        self.round = 0

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
        """Raises ValueError if the state is of other proposals."""
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
    objects, crowds = (Boxes(objects_of(record, crowds)) for crowds in (False, True))
    target = Instances((record["height"], record["width"]), gt_boxes=objects)
    target.ignore_regions = IgnoreRegions(crowds, len(target))
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
