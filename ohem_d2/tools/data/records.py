"""Load and check data sets for a training or a test."""

import contextlib
import functools
import os
from collections.abc import Iterable, Sequence

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog, get_detection_dataset_dicts
from detectron2.data.build import (
    filter_images_with_few_keypoints,
    filter_images_with_only_crowd_annotations,
)
from detectron2.data.detection_utils import check_metadata_consistency

from ..errors import InputError, input_errors, printable
from ..files import must_be_file
from .contents import Needs, go_over, image_faults
from .datasets import NEGATIVES, file_faults, is_own, must_be_registered
from .rules import Fault, faults_of, stop_at_first
from .unpickling import checked

_SAMPLE = 20  # images whose headers are checked at the start of a run


def training_records(cfg: CfgNode) -> tuple[list[dict], list[str]]:
    """
    Load DATASETS.TRAIN as a training takes it, in Detectron2's format, with proposals if
    MODEL.LOAD_PROPOSALS. Also returns notes on what is left out or odd. InputError names what
    would stop the training, or says that nothing is left.
    """
    names, records, notes, objects = cfg.DATASETS.TRAIN, [], [], 0
    for name in names:
        found = records_of(cfg, name, "TRAIN")
        if not isinstance(found, list):  # a PyTorch Dataset can only be checked by reading it
            return get_detection_dataset_dicts(list(names), filter_empty=False), []
        found, faults, number = check_records(cfg, name, found, training=True)
        notes += [f"{with_file(name)}: {fault}" for fault in faults]
        objects += number
        if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
            found = filter_images_with_only_crowd_annotations(found)
        if cfg.MODEL.KEYPOINT_ON:
            least = cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE
            found = _with_keypoints(found, least)
        records += [{**record, "data_set": name} for record in found]
    if not objects or not records:
        raise InputError(
            f"{', '.join(map(with_file, names))}: no object is left to train on"
            f"{''.join(f'; {note}' for note in notes)}. See --check"
        )
    for name in cfg.DATASETS.TEST:
        with contextlib.suppress(InputError):  # the start of a run reports it
            found = shared_images(records, records_of(cfg, name, "TEST"))
            notes += [f"{with_file(name)}: {fault}" for fault in found]
    with_classes = [name for name in names if not name.startswith(NEGATIVES)]
    if all(hasattr(MetadataCatalog.get(name), "thing_classes") for name in with_classes):
        with input_errors("Data sets that are trained on together must share their classes"):
            check_metadata_consistency("thing_classes", with_classes)
    return records, notes


def shared_images(training: Iterable[dict], test: Iterable[dict]) -> list[Fault]:
    """Test images that are also trained on. Images are compared by their paths."""
    trained = set(map(_place, training))
    return faults_of("trained on", (str(r["file_name"]) for r in test if _place(r) in trained))


def _place(record: dict) -> tuple[str, str]:
    folder, name = os.path.split(str(record.get("file_name")))
    return _real_path(folder), name


_real_path = functools.cache(os.path.realpath)


def _with_keypoints(records: list[dict], least: int) -> list[dict]:
    """Leave out images whose objects show too few keypoints. Images without objects stay."""

    def shows_objects(record: dict) -> bool:
        return any(a.get("iscrowd", 0) == 0 for a in record.get("annotations", ()))

    enough = filter_images_with_few_keypoints(list(filter(shows_objects, records)), least)
    kept = set(map(id, enough))
    return [record for record in records if id(record) in kept or not shows_objects(record)]


def records_of(cfg: CfgNode, name: str, split: str) -> list[dict]:
    """Load a data set of the configuration, "TRAIN" or "TEST". InputError names it."""
    must_be_registered(name)
    proposals = proposal_file(cfg, name, split)
    what = f"Data set {with_file(name)}{f' with proposals of {proposals}' if proposals else ''}"
    with input_errors(what):
        return get_detection_dataset_dicts(
            [name],
            filter_empty=False,
            proposal_files=checked([proposals]) if proposals else None,
        )


def check_records(
    cfg: CfgNode, name: str, records: Sequence[dict], training: bool
) -> tuple[list[dict], list[Fault], int]:
    """
    The records of a data set without what a training or a test leaves out, the faults (what is left
    out or odd), and the number of objects. InputError names what would stop a run.
    """
    kept, faults, objects = go_over(records, needs_of(cfg, training))
    faults += image_faults(records[:: max(len(records) // _SAMPLE, 1)])
    faults += file_faults(name) if is_own(name) else []
    stop_at_first(with_file(name), faults)
    return kept, faults, objects


def needs_of(cfg: CfgNode, training: bool) -> Needs:
    """The parts of its data that the configuration's model takes, in training or in a test."""
    masks = cfg.MODEL.MASK_ON
    return Needs(
        cfg.MODEL.ROI_HEADS.NUM_CLASSES,
        masks,
        polygons=masks and training and cfg.INPUT.MASK_FORMAT == "polygon",
        keypoints=cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS if cfg.MODEL.KEYPOINT_ON else 0,
    )


def with_file(name: str) -> str:
    """The name with the file or folder of its annotations, as far as they are known."""
    meta = MetadataCatalog.get(name)
    file = meta.get("json_file") or meta.get("dirname")
    return printable(f"{name} ({file})" if file and file not in name else name)


def proposal_file(cfg: CfgNode, name: str, split: str) -> str:
    """Its proposal file, or "" without MODEL.LOAD_PROPOSALS. InputError if there is none."""
    if not cfg.MODEL.LOAD_PROPOSALS:
        return ""
    files = dict(zip(cfg.DATASETS[split], cfg.DATASETS[f"PROPOSAL_FILES_{split}"]))
    if name not in files:
        raise InputError(
            f"MODEL.LOAD_PROPOSALS is True, and DATASETS has no proposal file for {name}; add it "
            f"to DATASETS.{split} and its file to DATASETS.PROPOSAL_FILES_{split}"
        )
    must_be_file(files[name], f"the proposals for {name}")
    return files[name]
