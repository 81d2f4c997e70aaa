"""Find what would stop a run: at its start, or in all images with ``--check``."""

import contextlib
import logging
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import DefaultTrainer

from .data.contents import go_over, image_faults
from .data.datasets import file_faults, is_own, must_be_registered, register_datasets
from .data.evaluation import evaluation_faults
from .data.records import (
    check_records,
    needs_of,
    proposal_file,
    records_of,
    shared_images,
    training_records,
    with_file,
)
from .data.rules import Fault
from .errors import InputError, input_errors, printable
from .files import must_be_file
from .keys import config_faults, config_notes, is_text
from .load_model import set_num_classes
from .training import run_folder
from .training.batches import ResumableLoader
from .training.checkpoints import load_to_evaluate
from .training.resumption import resumption_notes
from .training.trainer import OHEMTrainer

MOST = 20  # places of a fault that --check lists


def check_output(output_dir: str) -> None:
    """Raises InputError unless OUTPUT_DIR can be written to."""
    try:
        os.makedirs(output_dir, exist_ok=True)
        with tempfile.TemporaryFile(dir=output_dir):
            pass
    except (OSError, ValueError) as e:  # ValueError: no folder can have this name
        raise InputError(f"OUTPUT_DIR = {output_dir!r} cannot be written to: {e}") from e


def check_data(cfg: CfgNode, training: bool = True) -> list[str]:
    """
    Check registered data sets at the start of a run, except for what loading the training data
    checks. Returns what is odd in the test data. InputError for what would stop the run.
    """
    notes, splits = [], ("TRAIN", "TEST") if training else ("TEST",)
    for split, name in [(s, name) for s in splits for name in cfg.DATASETS[s]]:
        must_be_registered(name)
        proposal_file(cfg, name, split)
        file = str(MetadataCatalog.get(name).get("json_file", ""))
        if file and "://" not in file:
            must_be_file(file, f"the annotations of {name}")
    for name in cfg.DATASETS.TEST:
        records = records_of(cfg, name, "TEST")
        kept, found, _ = check_records(cfg, name, records, training=False)
        found += evaluation_faults(cfg, name, kept, found)
        notes += [f"{with_file(name)}: {fault}" for fault in found]
    return notes


def check_whole(
    cfg: CfgNode,
    classes: Sequence[str] = (),
    *,
    training: bool = True,
    resume: bool = False,
    overwrite: bool = False,
) -> None:
    """
    Print what is wrong with the configuration, which is not changed, and with all of its data.
    InputError if something would stop a training, or else an evaluation. OUTPUT_DIR may have a run
    with ``resume`` or ``overwrite``. ``classes`` are those of ``register_datasets``.
    """
    cfg, found = cfg.clone(), _Found()
    train, test = cfg.DATASETS.TRAIN if training else (), cfg.DATASETS.TEST
    if wrong := list(config_faults(cfg, training)):
        found.faults["The configuration"] = [Fault("value(s) that are not allowed", wrong)]
    names = list(dict.fromkeys(filter(is_text, (*train, *test))))
    for name in filter(is_own, names):
        with found.by(name):
            found.faults[name] += file_faults(name)
    unsound = {name for name in names if found.stops(name)}
    with found.by("The data sets together"):
        # Training data may name classes that the test data lack.
        sound = [n for n in (*cfg.DATASETS.TRAIN, *test) if is_text(n) and n not in unsound]
        if classes := register_datasets(sound, classes):
            set_num_classes(cfg, len(classes))
    if not wrong:
        with found.by("The configuration"), run_folder.left_as_it_was(cfg.OUTPUT_DIR):
            check_output(cfg.OUTPUT_DIR)
            if training:
                run_folder.claim(cfg.OUTPUT_DIR, resume=resume or overwrite)
                run_folder.release(cfg.OUTPUT_DIR)
        with found.by("The configuration"):
            if notes := _build(cfg, training, resume):
                found.faults["The configuration"] += [Fault("thing(s) to know", notes, "told")]
    objects, of_all = {}, {}
    if found.stops("The data sets together"):
        unsound |= {*names} - {*DatasetCatalog.list()}
    for name in (name for name in names if name not in unsound):
        with found.by(name):
            records = of_all[name] = records_of(cfg, name, "TRAIN" if name in train else "TEST")
            kept, faults, objects[name] = go_over(records, needs_of(cfg, name in train))
            faults += image_faults(records, cfg.INPUT.FORMAT)
            found.faults[name] += faults
            print(f"{with_file(name)}: {len(records)} images")
            if name in test:
                found.faults[name] += evaluation_faults(cfg, name, kept, faults)
    trained_on = [record for name in train for record in of_all.get(name, ())]
    for name in filter(of_all.get, test):
        found.faults[name] += shared_images(trained_on, of_all[name])
    if train and {*train} <= {*objects} and not any(objects[name] for name in train):
        empty = Fault("data set(s) without an object to train on", list(train))
        found.faults["The training data"] = [empty]
    if not any(map(found.stops, list(found.faults))):
        with found.by("The start of a run"):
            _load(cfg, training)
    found.tell()


class _Found:
    """Faults, by subject."""

    def __init__(self):
        self.faults: dict[str, list[Fault]] = defaultdict(list)

    @contextlib.contextmanager
    def by(self, about: str) -> Iterator[None]:
        """Note an InputError that is raised within the context."""
        try:
            yield
        except InputError as e:
            self.faults[about].append(Fault("error", [str(e)]))

    def stops(self, about: str) -> int:
        """How many faults stop a run."""
        return sum(fault.stops for fault in self.faults[about])

    def tell(self) -> None:
        """Print all faults. InputError if one stops a run."""
        for about, faults in self.faults.items():
            for fault in faults:
                print(f"{printable(about)}: {fault.text()}")
                print(*(f"    {place}" for place in fault.where[:MOST]), sep="\n")
                if (more := len(fault.where) - MOST) > 0:
                    print(f"    and {more} more")
        if num := sum(map(self.stops, self.faults)):
            raise InputError(f"--check found what would stop a run, listed above (kinds: {num})")
        print("--check found nothing that would stop a run")


def _build(cfg: CfgNode, training: bool, resume: bool) -> list[str]:
    """Build on the CPU what a run builds before it reads data. Returns what is odd about it."""
    cfg = cfg.clone()
    cfg.MODEL.DEVICE = "cpu"
    with input_errors("The model cannot be built"), _without_architecture():
        model = OHEMTrainer.build_model(cfg)
    if not training:
        load_to_evaluate(cfg, model, resume)
        return []
    with input_errors("The training cannot be set up"):
        optimizer = OHEMTrainer.build_optimizer(cfg, model)
        OHEMTrainer.build_lr_scheduler(cfg, optimizer)
    resumed = resumption_notes(cfg, model, optimizer) if resume else ()
    return [*config_notes(cfg), *resumed]


@contextlib.contextmanager
def _without_architecture() -> Iterator[None]:
    """Silence DefaultTrainer, which logs the model that it builds in hundreds of lines."""
    log = logging.getLogger(DefaultTrainer.__module__)
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(level)


def _load(cfg: CfgNode, training: bool) -> None:
    """Load data as a run does at its start."""
    check_data(cfg, training)
    if training:
        with input_errors("The training cannot be set up"):
            records, _ = training_records(cfg)
            ResumableLoader(cfg, OHEMTrainer.build_train_mapper(cfg), records)
