"""
Which proposals are trained on, and the sweep that finds the next ones.

The R proposals of an image have ``labels``, of shape (R,): each is FOREGROUND, BACKGROUND or
IGNORED; ``scores``, of shape (R,), are the highest over object classes. The working set of an image
has the indices of its proposals, int64, ascending.
"""

import zlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, build_detection_test_loader
from detectron2.evaluation import inference_context
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, BoxMode, Instances, pairwise_ioa, pairwise_iou
from detectron2.utils import comm
from torch import Tensor
from torch.utils.data import Dataset

from ohem_d2 import CrowdDatasetMapper, IgnoreRegions
from ohem_d2.tools.data.records import training_records
from ohem_d2.tools.errors import InputError
from ohem_d2.tools.training.batches import ResumableLoader

from .training_loss import score_boxes

IGNORED, BACKGROUND, FOREGROUND = -1, 0, 1


def label_proposals(boxes: Boxes, target: Instances, matcher: Matcher, ioa_thresh: float) -> Tensor:
    """
    Labels from the heads' matcher, int8 of shape (R,), by the IoUs of R boxes, in absolute XYXY
    pixels, with the ``gt_boxes`` of the target. Background is ignored if a share of its area of
    ``ioa_thresh`` or more is in one of the target's ``ignore_regions``, its crowds.
    """
    labels = matcher(pairwise_iou(target.gt_boxes, boxes))[1]
    if target.has("ignore_regions") and len(target.ignore_regions.boxes) > 0:
        in_crowd = pairwise_ioa(target.ignore_regions.boxes, boxes).amax(dim=0) >= ioa_thresh
        labels = torch.where((labels == BACKGROUND) & in_crowd, IGNORED, labels)
    return labels.to(torch.int8)


def initial_set(labels: Tensor, num_background: int, generator: torch.Generator) -> Tensor:
    """All foreground and ``num_background`` random background proposals, all if there are fewer."""
    background = torch.nonzero(labels == BACKGROUND).squeeze(1)
    order = torch.randperm(len(background), generator=generator)
    foreground = torch.nonzero(labels == FOREGROUND).squeeze(1)
    return torch.cat([foreground, background[order[:num_background]]]).sort().values


def find_false_positives(scores: Tensor, labels: Tensor, score_thresh: float) -> Tensor:
    """int64: background that scores above ``score_thresh``, highest scores first."""
    found = torch.nonzero((labels == BACKGROUND) & (scores > score_thresh)).squeeze(1)
    return found[torch.sort(scores[found], descending=True, stable=True).indices]


def merge(indices: Tensor, found: Tensor, max_added: int) -> Tensor:
    """
    The working set with ``found``, most important first, added, except for what it has already. At
    most ``max_added`` are added; 0: all.
    """
    new = found[~torch.isin(found, indices)]
    return torch.cat([indices, new[: max_added or None]]).sort().values


def round_of(iteration: int, max_iter: int, rounds: int) -> int:
    """The round, from 0, that an iteration belongs to; lengths of rounds differ by at most 1."""
    return iteration * rounds // max_iter


class WorkingSet(Dataset):
    """
    The images in Detectron2's format, with the proposals that are trained on in this ``round``,
    from 0. ``records`` have all proposals, float32 in absolute XYXY pixels, none empty; for each
    image there are the ``labels`` of all, and the ``indices`` of those in the set.
    """

    def __init__(self, cfg: CfgNode):
        """The first set; the same in all processes."""
        records, _ = training_records(cfg)
        heads, topk = cfg.MODEL.ROI_HEADS, cfg.DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN
        matcher = Matcher(heads.IOU_THRESHOLDS, heads.IOU_LABELS)
        ioa_thresh = heads.OHEM.IGNORE_IOA_THRESH  # as the miner's
        self.records = [_with_proposals_inside(record, topk) for record in records]
        pairs = ((Boxes(r["proposal_boxes"]), _ground_truth(r)) for r in self.records)
        self.labels = [label_proposals(*pair, matcher, ioa_thresh) for pair in pairs]
        seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
        generator = torch.Generator().manual_seed(seed)
        num_background = cfg.BOOTSTRAP.INITIAL_BACKGROUND
        self.indices = [initial_set(part, num_background, generator) for part in self.labels]
        self.round = 0

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, place: int) -> dict:
        return _with_proposals(self.records[place], self.indices[place].numpy())

    def count(self) -> dict[str, int]:
        """``num_foreground`` and ``num_background`` RoIs in the set."""
        labels = torch.cat([part[i] for part, i in zip(self.labels, self.indices)])
        kinds = {"num_foreground": FOREGROUND, "num_background": BACKGROUND}
        return {name: int((labels == kind).sum()) for name, kind in kinds.items()}

    def state_dict(self) -> dict[str, Any]:
        sizes = [len(part) for part in self.indices]
        indices = {"indices": torch.cat(self.indices), "sizes": sizes}
        return {"round": self.round, "proposals": self._digest(), **indices}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises InputError if the state is of other proposals."""
        if state["proposals"] != self._digest():
            same = "DATASETS.TRAIN, PROPOSAL_FILES_TRAIN and PRECOMPUTED_PROPOSAL_TOPK_TRAIN"
            how = f"Resume with the same {same}, or start anew in another OUTPUT_DIR"
            raise InputError(f"The working set in the checkpoint is of other proposals. {how}")
        self.indices = list(state["indices"].split(state["sizes"]))
        self.round = state["round"]

    def _digest(self) -> int:
        digest = 0
        for record in self.records:
            digest = zlib.crc32(np.ascontiguousarray(record["proposal_boxes"]), digest)
        return digest


def _with_proposals(record: dict, indices: np.ndarray) -> dict:
    keys = ("proposal_boxes", "proposal_objectness_logits")
    return {**record, **{key: record[key][indices] for key in keys}}


def _with_proposals_inside(record: dict, topk: int) -> dict:
    """
    The first ``topk`` proposals, as XYXY, that the mapper does not drop as empty, so that an index
    means the same before and after the mapper.
    """
    boxes = np.asarray(record["proposal_boxes"], dtype="float32")
    boxes = BoxMode.convert(boxes, record["proposal_bbox_mode"], BoxMode.XYXY_ABS)
    record = {**record, "proposal_boxes": boxes, "proposal_bbox_mode": BoxMode.XYXY_ABS}
    clipped = Boxes(boxes.copy())
    clipped.clip((record["height"], record["width"]))
    # A hundredth of a pixel survives rounding in a smaller image.
    inside = np.flatnonzero(clipped.nonempty(threshold=0.01).numpy())
    return _with_proposals(record, inside[:topk])


def _ground_truth(record: dict) -> Instances:
    """Objects and crowd regions of an image, before any transformation."""
    objects, crowds = (Boxes(_boxes(record, crowds)) for crowds in (False, True))
    target = Instances((record["height"], record["width"]), gt_boxes=objects)
    target.ignore_regions = IgnoreRegions(crowds, len(target))
    return target


def _boxes(record: dict, crowds: bool) -> np.ndarray:
    """The boxes, float32 (m, 4), XYXY, of a record's objects, or of its crowd regions."""
    annotations = [a for a in record.get("annotations", []) if a.get("iscrowd", 0) == crowds]
    boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations]
    return np.array(boxes, np.float32).reshape(-1, 4)


class WorkingSetLoader(ResumableLoader):
    """
    Endless batches of images with the proposals of the working set. In a new round, worker
    processes are restarted, because they hold copies of the old set.
    """

    def __init__(self, cfg: CfgNode, working_set: WorkingSet):
        self.working_set = working_set
        super().__init__(cfg, CrowdDatasetMapper(cfg, is_train=True), working_set)

    def __iter__(self) -> Iterator[list[dict]]:
        while True:
            current = self.working_set.round
            for batch in super().__iter__():
                yield batch
                if self.working_set.round != current:
                    break


def score_proposals(model: torch.nn.Module, inputs: list[dict]) -> list[Tensor]:
    """
    For each image, the highest score over object classes of each of its ``proposals``, (R,), from a
    ``GeneralizedRCNN`` in evaluation mode.
    """
    features = model.backbone(model.preprocess_image(inputs).tensor)
    proposals = [x["proposals"].to(model.device) for x in inputs]
    predictor, predictions = score_boxes(model.roi_heads, features, proposals)
    scores = predictor.predict_probs(predictions, proposals)
    return [part[:, :-1].amax(dim=1) for part in scores]  # background is the last


def sweep(
    cfg: CfgNode, model: torch.nn.Module, working_set: WorkingSet
) -> tuple[list[Tensor], dict[str, int]]:
    """
    Run the frozen model over every image at the size for tests, with all its proposals; several
    processes share the images. Returns the indices of the next working set, and how many false
    positives were found and added.
    """
    thresh, most = cfg.BOOTSTRAP.SCORE_THRESH, cfg.BOOTSTRAP.MAX_PER_IMAGE
    topk = cfg.DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN
    loader = build_detection_test_loader(
        [{**record, "place": i} for i, record in enumerate(working_set.records)],
        mapper=DatasetMapper(cfg, is_train=False, precomputed_proposal_topk=topk),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )
    swept, counts = {}, Counter()
    with inference_context(model), torch.no_grad():
        for inputs in loader:
            for x, scores in zip(inputs, score_proposals(model, inputs)):
                place, scores = x["place"], scores.cpu()
                before, labels = working_set.indices[place], working_set.labels[place]
                found = find_false_positives(scores, labels, thresh)
                swept[place] = merge(before, found, most)
                counts["num_false_positives"] += len(found)
                counts["num_added"] += len(swept[place]) - len(before)
    totals = Counter()
    for part, numbers in comm.all_gather((swept, counts)):
        swept.update(part)
        totals.update(numbers)
    return [swept[place] for place in range(len(working_set.records))], dict(totals)
