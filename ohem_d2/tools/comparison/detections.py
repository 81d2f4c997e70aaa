"""What detectors find, as COCO counts at one IoU, and on which images two differ most."""

import contextlib
import dataclasses
import io
from collections.abc import Sequence

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


@dataclasses.dataclass(frozen=True)
class Found:
    """What a detector finds on one image. Boxes are (M, 4), in absolute XYXY pixels."""

    objects: frozenset[int]  #: ids of the annotations that are found
    right: np.ndarray  #: detections of an object
    wrong: np.ndarray  #: false alarms
    missed: np.ndarray  #: objects that are not found


def evaluated(truth: COCO, detections: Sequence[dict], iou: float) -> COCOeval:
    """What pycocotools matches at one IoU, for all classes and sizes. Prints nothing."""
    with contextlib.redirect_stdout(io.StringIO()):
        results = truth.loadRes(list(detections)) if detections else COCO()
        evaluation = COCOeval(truth, results, "bbox")
        evaluation.params.useCats = 0
        evaluation.params.iouThrs = np.array([iou])
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
    return evaluation


def found(truth: COCO, detections: Sequence[dict], iou: float = 0.5) -> dict[int, Found]:
    """
    What is found, by image id, as COCO counts at that IoU: highest scores first, and each object
    once. Crowd regions and detections there do not count. Detections are in COCO format.
    """
    evaluation = evaluated(truth, detections, iou)
    results = evaluation.cocoDt
    images = {image: Found(frozenset(), *[_boxes(truth, [])] * 3) for image in truth.imgs}
    for one in filter(None, evaluation.evalImgs):
        ids, matches = np.array(one["dtIds"], dtype=int), one["dtMatches"][0]
        counts = ~one["dtIgnore"][0]
        objects = np.array(one["gtIds"], dtype=int)[~np.array(one["gtIgnore"], dtype=bool)]
        hit = frozenset(matches[counts & (matches > 0)].astype(int).tolist())
        right, wrong = (_boxes(results, ids[counts & kind]) for kind in (matches > 0, matches == 0))
        missed = _boxes(truth, [i for i in objects.tolist() if i not in hit])
        images[one["image_id"]] = Found(hit, right, wrong, missed)
    return images


def score_that_finds(truth: COCO, detections: Sequence[dict], recall: float) -> float:
    """The score above which this share of the objects is found at an IoU of 0.5, or 0.0."""
    evaluation = evaluated(truth, detections, iou=0.5)
    evaluation.params.recThrs = np.array([recall])
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.accumulate()
    return max(evaluation.eval["scores"][0, 0, 0, 0, -1].item(), 0.0)


def most_different(one: dict[int, Found], other: dict[int, Found], num: int) -> list[int]:
    """Image ids, those first in which only one of the two finds the most objects."""
    differences = {image: len(one[image].objects ^ other[image].objects) for image in one}
    ordered = sorted(differences, key=lambda image: -differences[image])
    return [image for image in ordered if differences[image]][:num]


def _boxes(coco: COCO, ids: Sequence[int]) -> np.ndarray:
    boxes = np.array([coco.anns[i]["bbox"] for i in ids], dtype=float).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes
