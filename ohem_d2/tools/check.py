"""
Look for what would stop a run, perhaps after hours, in a configuration and its data: at the start
of each run, and with all images by ``train_net.py --check``.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from .data import records as data_sets
from .data.coco import EVALUATED, EVALUATED_KEYPOINTS, check_coco, coco_faults, read_coco
from .data.datasets import FORMS, NEGATIVES, must_be_registered, register_datasets
from .data.faults import Fault, faults_if_any, image_faults, record_faults
from .data.records import records_of, with_file
from .data.voc import voc_faults
from .errors import InputError, input_errors, printable
from .files import must_be_file
from .keys import config_faults, is_text
from .training import run_folder
from .training.batches import ResumableLoader
from .training.trainer import OHEMTrainer

MOST = 20  # faults of a kind that --check lists


def check_output(output_dir: str) -> None:
    """Raises InputError unless OUTPUT_DIR can be written to."""
    try:
        os.makedirs(output_dir, exist_ok=True)
        with tempfile.TemporaryFile(dir=output_dir):
            pass
    except (OSError, ValueError) as e:  # the latter for a name that none can have
        raise InputError(f"OUTPUT_DIR = {output_dir!r} cannot be written to: {e}") from e


def check_data(cfg: CfgNode, training: bool = True) -> list[str]:
    """
    Check registered data sets at the start of a run; those to train on are looked into when they
    are loaded. Returns what of the test data is wrong but stops nothing, in words. Raises
    InputError for the first fault that would stop the run.
    """
    found, splits = [], ("TRAIN", "TEST") if training else ("TEST",)
    for split, name in [(s, name) for s in splits for name in cfg.DATASETS[s]]:
        must_be_registered(name)
        data_sets.proposal_file(cfg, name, split)
        meta = MetadataCatalog.get(name)
        file = str(meta.get("json_file", ""))
        if file and "://" not in file:
            must_be_file(file, f"the annotations of {name}")
            if name in cfg.DATASETS.TEST and meta.get("evaluator_type") == "coco":
                check_coco(file, read_coco(file), _evaluated(cfg))
    for name in cfg.DATASETS.TEST:
        records = records_of(cfg, name, "TEST")
        _check_evaluation(name, records)
        faults, _ = data_sets.check_records(cfg, name, records, training=False)
        found += [f"{with_file(name)}: {fault}" for fault in faults]
    return found


def _evaluated(cfg: CfgNode) -> tuple[str, ...]:
    """The keys of annotations in COCO format that the evaluation reads."""
    return EVALUATED_KEYPOINTS if cfg.MODEL.KEYPOINT_ON else EVALUATED


def _check_evaluation(name: str, records: Sequence[dict]) -> None:
    """Raises InputError unless Detectron2 finds what to evaluate on, or can make it of records."""
    if name.startswith(NEGATIVES):
        raise InputError(f"{name}: there is nothing to evaluate on; name the test data {FORMS}")
    meta = MetadataCatalog.get(name)
    if meta.get("evaluator_type", "coco") != "coco" or meta.get("json_file"):
        return
    sized = all({"width", "height"} <= set(record) for record in records)
    if not sized or meta.get("thing_classes") is None:
        raise InputError(
            f"{with_file(name)}: its evaluation needs a json_file in COCO format in its metadata, "
            "or thing_classes there, and width and height of each image"
        )


def check_whole(
    cfg: CfgNode, classes: Sequence[str] = (), training: bool = True, resume: bool = False
) -> None:
    """
    Print what is wrong with the configuration, which is not changed, and with all of its data;
    InputError if something would stop a run: a training, or an evaluation alone, which takes less.
    With ``resume`` OUTPUT_DIR may have a run. For ``classes`` see
    :func:`ohem_d2.tools.data.datasets.register_datasets`.
    """
    cfg, test = cfg.clone(), cfg.DATASETS.TEST
    train = cfg.DATASETS.TRAIN if training else ()
    of_config = faults_if_any("values that do not do", config_faults(cfg, training))
    faults, evaluated = {"The configuration": of_config}, _evaluated(cfg)
    names = list(dict.fromkeys(filter(is_text, (*train, *test))))
    faults |= {name: _faults_of_files(name, evaluated if name in test else ()) for name in names}
    unsound = {name for name in names if _stops(faults[name])}
    together = "The data sets together"
    with _noting(faults, together):
        # Those to train on may name classes of those to test on.
        sound = [n for n in (*cfg.DATASETS.TRAIN, *test) if is_text(n) and n not in unsound]
        if classes := register_datasets(sound, classes):
            cfg.MODEL.ROI_HEADS.NUM_CLASSES = len(classes)
    if not of_config:
        with _noting(faults, "The configuration"), run_folder.left_as_it_was(cfg.OUTPUT_DIR):
            check_output(cfg.OUTPUT_DIR)
            if training:
                run_folder.claim(cfg.OUTPUT_DIR, resume=resume)
                run_folder.release(cfg.OUTPUT_DIR)
        with _noting(faults, "The configuration"):
            _build(cfg, training)
    objects = {}
    # What is wrong with others has been noted.
    noted = {*unsound, *({*names} - {*DatasetCatalog.list()} if together in faults else ())}
    for name in (name for name in names if name not in noted):
        with _noting(faults, name):
            records = records_of(cfg, name, "TRAIN" if name in train else "TEST")
            found, objects[name] = record_faults(records, data_sets.needs_of(cfg, name in train))
            faults[name] += [*found, *image_faults(records, cfg.INPUT.FORMAT)]
            print(f"{with_file(name)}: {len(records)} images")
            if name in test:
                _check_evaluation(name, records)
    if train and {*train} <= {*objects} and not any(objects[name] for name in train):
        empty = Fault("data sets without an object to train on", list(train))
        faults["The training data"] = [empty]
    if not any(map(_stops, faults.values())):
        with _noting(faults, "The start of a run"):
            _load(cfg, training)
    for name, found in faults.items():
        for fault in found:
            print(f"{printable(name)}: {fault.heading}")
            print(*(f"    {place}" for place in fault.where[:MOST]), sep="\n")
            if (more := len(fault.where) - MOST) > 0:
                print(f"    and {more} more")
    if num := sum(map(_stops, faults.values())):
        raise InputError(f"--check found what would stop a run, listed above (kinds: {num})")
    print("--check found nothing that would stop a run")


def _build(cfg: CfgNode, training: bool) -> None:
    """Build what a run builds before it reads data, on the CPU, which is always there."""
    cfg = cfg.clone()
    cfg.MODEL.DEVICE = "cpu"
    with input_errors("The model cannot be built"):
        model = OHEMTrainer.build_model(cfg)
    if training:
        with input_errors("The training cannot be set up"):
            OHEMTrainer.build_lr_scheduler(cfg, OHEMTrainer.build_optimizer(cfg, model))


def _load(cfg: CfgNode, training: bool) -> None:
    """Load data as a run does at its start."""
    check_data(cfg, training)
    if training:
        with input_errors("The training cannot be set up"):
            records, _ = data_sets.training_records(cfg)
            ResumableLoader(cfg, OHEMTrainer.build_train_mapper(cfg), records)


def _faults_of_files(name: str, evaluated: Sequence[str]) -> list[Fault]:
    """All faults of the annotations of data that is named by where it lies."""
    kind, place, *_ = f"{name}:".split(":")
    try:
        if kind == "coco":
            return coco_faults(read_coco(place), evaluated)
        return voc_faults(place) if kind == "voc" else []
    except InputError as e:
        return [Fault("error", [str(e)])]


def _stops(faults: Sequence[Fault]) -> int:
    return sum(fault.stops for fault in faults)


@contextlib.contextmanager
def _noting(faults: dict[str, list[Fault]], what: str) -> Iterator[None]:
    try:
        yield
    except InputError as e:
        faults.setdefault(what, []).append(Fault("error", [str(e)]))
