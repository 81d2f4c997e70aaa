"""Evaluation of a test set: COCO's metrics, and for VOC data also VOC's own metric."""

import json
import os
import re
from collections import Counter, OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_json
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator, DatasetEvaluators
from detectron2.structures import Boxes, BoxMode, pairwise_iou
from detectron2.utils import comm

from ..errors import InputError
from ..files import write_atomically
from .coco import mended_for_evaluation, read_coco
from .contents import go_over
from .datasets import FORMS, NEGATIVES, is_own
from .records import needs_of, with_file
from .rules import Fault, faults_of
from .voc import voc_records


def evaluation_faults(
    cfg: CfgNode, name: str, records: Sequence[dict], known: Sequence[Fault] = ()
) -> list[Fault]:
    """
    What is odd about a test set, or mended for its evaluation. InputError if it lacks what
    Detectron2 needs, or if there is nothing to evaluate on; that one lists the ``known`` faults.
    """
    if name.startswith(NEGATIVES):
        raise InputError(f"{name}: there is nothing to evaluate on; name the test data {FORMS}")
    meta, found = MetadataCatalog.get(name), []
    json_file, kind = meta.get("json_file"), meta.get("evaluator_type", "coco")
    if kind not in ("coco", "pascal_voc"):
        return []
    sized = all({"width", "height"} <= set(record) for record in records)
    classes = meta.get("thing_classes")
    if not json_file and (not sized or classes is None):
        raise InputError(
            f"{with_file(name)}: its evaluation needs a json_file in COCO format in its metadata, "
            "or thing_classes there, and width and height of each image"
        )
    if json_file:
        found += _mended(cfg, meta)[1]
        if not isinstance(read_coco(json_file).annotations, list):
            return found + faults_of("no annotations", [json_file])
    objects = [
        [a["category_id"] for a in r.get("annotations", ()) if not a.get("iscrowd", 0)]
        for r in records
    ]
    if not any(objects):
        raise InputError(
            f"{with_file(name)}: there is no object to find in {len(records)} images, and so "
            f"nothing to evaluate on{''.join(f'; {fault}' for fault in known)}. Label it, or leave "
            "it out with DATASETS.TEST '()'"
        )
    most = cfg.TEST.DETECTIONS_PER_IMAGE
    crowded = ((r, len(o)) for r, o in zip(records, objects) if len(o) > most)
    found += faults_of("too many", (f"{r['file_name']}: {num}" for r, num in crowded), most=most)
    present = Counter(label for of_image in objects for label in of_image)
    absent = (c for i, c in enumerate(classes or ()) if i not in present)
    return found + faults_of("absent class", absent)


def build_evaluator(cfg: CfgNode, name: str) -> DatasetEvaluator:
    """
    COCO's metrics, and for VOC data also VOC's, as ``voc``. Labels are read again each time. Images
    may have more than COCO's 100 detections if TEST.DETECTIONS_PER_IMAGE says so.
    """
    kind = MetadataCatalog.get(name).get("evaluator_type", "coco")
    if kind not in ("coco", "pascal_voc"):
        raise NotImplementedError(
            f"No evaluator for {name}, whose evaluator_type is {kind!r}; override "
            "OHEMTrainer.build_evaluator"
        )
    folder = Path(cfg.OUTPUT_DIR, "inference")
    evaluator = COCOEvaluator(
        _with_labels(cfg, name, folder),
        output_dir=str(folder),
        kpt_oks_sigmas=cfg.TEST.KEYPOINT_OKS_SIGMAS,
        max_dets_per_image=max(100, cfg.TEST.DETECTIONS_PER_IMAGE),
    )
    if kind == "coco":
        return evaluator
    return DatasetEvaluators([evaluator, VOCEvaluator(name, labels_of(cfg, name))])


def _with_labels(cfg: CfgNode, name: str, folder: Path) -> str:
    """The name of a data set whose json_file can be evaluated on; made if necessary."""
    meta = MetadataCatalog.get(name)
    if given := meta.get("json_file"):
        content, _ = _mended(cfg, meta)
        if content is None:
            return name
    file = folder / f"{re.sub(r'[^A-Za-z0-9]+', '_', name)[-150:]}_coco_format.json"
    if comm.is_main_process():
        os.makedirs(folder, exist_ok=True)
        if given:
            write_atomically(file, json.dumps(content))
        else:
            _forget(str(file))
            DatasetCatalog.register(str(file), lambda: labels_of(cfg, name))
            MetadataCatalog.get(str(file)).set(**_classes_of(meta))
            convert_to_coco_json(str(file), str(file), allow_cached=False)
    comm.synchronize()
    _forget(str(file))
    MetadataCatalog.get(str(file)).set(json_file=str(file), **_classes_of(meta))
    return str(file)


def _mended(cfg: CfgNode, meta: Any) -> tuple[dict | None, list[Fault]]:
    return mended_for_evaluation(meta.json_file, cfg.MODEL.MASK_ON, meta.get("image_root", ""))


def labels_file(cfg: CfgNode, name: str) -> str:
    """The file in COCO format that a data set is evaluated on."""
    return MetadataCatalog.get(_with_labels(cfg, name, Path(cfg.OUTPUT_DIR, "inference"))).json_file


def _forget(name: str) -> None:
    for catalog in (DatasetCatalog, MetadataCatalog):
        catalog.pop(name, None)


def _classes_of(meta: Any) -> dict[str, Any]:
    keys = ("thing_classes", "thing_dataset_id_to_contiguous_id")
    return {key: value for key in keys if (value := meta.get(key)) is not None}


def labels_of(cfg: CfgNode, name: str) -> list[dict]:
    """Records without what is left out. In Detectron2's VOC, too, difficult objects are crowds."""
    meta, records = MetadataCatalog.get(name), None
    if meta.get("evaluator_type") == "pascal_voc" and not is_own(name):
        records = voc_records(meta.dirname, meta.split, meta.thing_classes)
    return go_over(records or DatasetCatalog.get(name), needs_of(cfg, training=False))[0]


class VOCEvaluator(DatasetEvaluator):
    """
    Average precision by the rule of Pascal VOC (Everingham et al., IJCV 2015): a detection is right
    if it is the first, by score, with IoU > 0.5 with the object that it overlaps most. Difficult
    objects do not count. AP is the area below monotone precision; for 2007 the mean of 11 points.
    """

    def __init__(self, name: str, labels: Sequence[dict]):
        meta = MetadataCatalog.get(name)
        self._classes, self._is_2007 = meta.thing_classes, meta.get("year") == 2007
        self._labels = {record["image_id"]: record["annotations"] for record in labels}

    def reset(self) -> None:
        """Forget all detections."""
        self._found: dict[Any, list] = {}

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Take what a model detected on some images."""
        for image, output in zip(inputs, outputs):
            found = output["instances"].to("cpu")
            parts = found.pred_boxes.tensor, found.scores, found.pred_classes
            self._found[image["image_id"]] = [part.tolist() for part in parts]

    def evaluate(self) -> OrderedDict | None:
        """``{"voc": {"AP50": ..., "AP50-cat": ...}}`` in percent, nan without objects."""
        gathered = comm.gather(self._found, dst=0)
        if not comm.is_main_process():
            return None
        found = {image: parts for part in gathered for image, parts in part.items()}
        aps = [self._ap(found, i) for i in range(len(self._classes))]
        known = [ap for ap in aps if not np.isnan(ap)]
        result = {"AP50": float(np.mean(known)) if known else float("nan")}
        result |= {f"AP50-{name}": ap for name, ap in zip(self._classes, aps)}
        return OrderedDict(voc=result)

    def _ap(self, found: dict, category: int) -> float:
        hits, scores, num = [], [], 0
        for image, annotations in self._labels.items():
            objects = [a for a in annotations if a["category_id"] == category]
            difficult = [bool(a.get("iscrowd", 0)) for a in objects]
            num += difficult.count(False)
            boxes, image_scores, classes = found.get(image, ([], [], []))
            mine = [i for i, c in enumerate(classes) if c == category]
            mine.sort(key=lambda i: -image_scores[i])
            of_objects = [
                BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in objects
            ]
            hits += first_hits([boxes[i] for i in mine], of_objects, difficult)
            scores += [image_scores[i] for i in mine]
        if num == 0:
            return float("nan")
        order = np.argsort(-np.array(scores), kind="stable")
        hits = np.array(hits, dtype=float)[order]
        hits = hits[~np.isnan(hits)]
        return 100 * average_precision(hits, num, self._is_2007)


def first_hits(
    boxes: list[list[float]], objects: list[list[float]], difficult: list[bool]
) -> list[float]:
    """For detections by score: 1 if right, 0 if wrong, NaN if it does not count."""
    hits, taken = [], set()
    ious = pairwise_iou(*(Boxes(torch.tensor(b).float().reshape(-1, 4)) for b in (boxes, objects)))
    for of_box in ious.tolist():
        best = int(np.argmax(of_box)) if of_box else -1
        if best < 0 or of_box[best] <= 0.5:
            hits.append(0.0)
        elif difficult[best]:
            hits.append(float("nan"))
        else:
            hits.append(float(best not in taken))
            taken.add(best)
    return hits


def average_precision(hits: np.ndarray, num_objects: int, eleven_points: bool = False) -> float:
    """AP, from 0 to 1, of ``hits`` by score: 1 for a right detection, 0 for a wrong one."""
    right = np.cumsum(hits)
    recall, precision = right / num_objects, right / np.arange(1, len(hits) + 1)
    if eleven_points:
        points = np.arange(0, 1.1, 0.1)
        return float(np.mean([precision[recall >= p].max(initial=0) for p in points]))
    monotone = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0) * monotone))
