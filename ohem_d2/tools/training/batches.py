"""Load batches of training data, which a resumed run continues where it stopped."""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MapDataset, build_detection_train_loader
from detectron2.data.common import AspectRatioGroupedDataset, ToIterableDataset
from detectron2.data.samplers import RepeatFactorTrainingSampler
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset

from ..data.unpickling import with_checked_proposals
from ..errors import InputError
from .seeds import IMAGE, SAMPLER, run_seed, seed_at, seeded


class ResumableLoader:
    """
    Endless batches with the data, sampler and grouping of Detectron2's loader. They depend on the
    seed and the number of images before them, not on the number of workers. A new iterator goes on
    where the last one stopped. An image of unknown size is grouped with the one before it.
    """

    def __init__(self, cfg: CfgNode, mapper: Callable[[dict], Any], dataset: Any = None):
        """
        ``dataset``: a list or map-style data set of records, by default those of DATASETS.TRAIN.
        InputError for an iterable data set.
        """
        self._cfg = with_checked_proposals(cfg)
        self._mapper, self._records = mapper, dataset
        self._batches = 0  # taken from this loader
        self._begin_with(run_seed(cfg))

    def _begin_with(self, seed: int) -> None:
        """Take the parts of a loader that Detectron2 makes from this seed."""
        self._seed = seed
        cfg = self._cfg.clone()
        cfg.defrost()
        cfg.SEED = seed  # Some samplers read it.
        with seeded(seed_at(seed, SAMPLER)):
            settings = {"mapper": _as_it_is, "dataset": self._records}
            if cfg.DATALOADER.SAMPLER_TRAIN.startswith("Weighted") and self._records is not None:
                settings["sampler"] = weighted_sampler(cfg, self._records)
            loader = build_detection_train_loader(cfg, **settings)
        grouped = isinstance(loader, AspectRatioGroupedDataset)
        images = (loader.dataset if grouped else loader).dataset
        if not isinstance(images, ToIterableDataset):
            how = "override OHEMTrainer.build_train_loader to train on it"
            given = f"DATASETS.TRAIN = {self._cfg.DATASETS.TRAIN}: data"
            raise InputError(f"{given} that can only be iterated over cannot be resumed; {how}")
        self._records, self._sampler = images.dataset, images.sampler

    @property
    def batch_size(self) -> int:
        """Images of a batch, in one process."""
        return self._cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size()

    def __iter__(self) -> Iterator[list[Any]]:
        size, workers = self.batch_size, self._cfg.DATALOADER.NUM_WORKERS
        images = _Repeatable(MapDataset(self._records, self._mapper), self._seed)
        places = itertools.islice(enumerate(self._indices()), self._batches * size, None)
        # No batches here: workers load single images, which come in order. The generator is new,
        # since the loader would seed workers from PyTorch's state, which resuming changes.
        settings = {"batch_size": None, "collate_fn": _as_it_is, "generator": torch.Generator()}
        loaded = iter(DataLoader(images, sampler=places, num_workers=workers, **settings))
        while batch := list(itertools.islice(loaded, size)):
            self._batches += 1
            yield batch

    def _indices(self) -> Iterator[int]:
        """The indices of records, those of the first batch first."""
        grouping = self._cfg.DATALOADER.ASPECT_RATIO_GROUPING

        @functools.cache  # reading a record is slow
        def wide(index: int) -> bool | None:
            record = self._records[index] if grouping else {}
            return record["width"] > record["height"] if {"width", "height"} <= {*record} else None

        def drawn() -> Iterator[dict]:
            group = False
            for index in self._sampler:
                group = group if wide(index) is None else wide(index)
                yield {"index": index, "width": group, "height": 0}

        for batch in AspectRatioGroupedDataset(drawn(), self.batch_size):
            yield from (image["index"] for image in batch)

    def state_dict(self) -> dict[str, int]:
        """The same in all processes: the seed, and the images that all of them have taken."""
        return {"seed": self._seed, "images": self._batches * self._cfg.SOLVER.IMS_PER_BATCH}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue there. If the batch size has changed, the place is approximate."""
        if state["seed"] != self._seed:
            self._begin_with(state["seed"])
        self._batches = state["images"] // self._cfg.SOLVER.IMS_PER_BATCH


def weighted_sampler(cfg: CfgNode, records: Sequence[dict]) -> RepeatFactorTrainingSampler:
    """
    Detectron2's, for records that name their ``data_set``. Its own function counts the images again
    without those that show no object, and so draws with the factors of other images.
    """
    given = dict(cfg.DATASETS.TRAIN_REPEAT_FACTOR)
    factors = torch.tensor([float(given.get(r.get("data_set"), 1)) for r in records])
    if "Category" in cfg.DATALOADER.SAMPLER_TRAIN:
        by_category = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency
        how = cfg.DATALOADER.REPEAT_THRESHOLD, cfg.DATALOADER.REPEAT_SQRT
        parts = itertools.groupby(records, key=lambda record: record.get("data_set"))
        factors *= torch.cat([by_category(list(part), *how) for _, part in parts])
        factors /= factors.min()
    return RepeatFactorTrainingSampler(factors)


class _Repeatable(Dataset):
    """Images, by place in the training and index. The place decides the random numbers."""

    def __init__(self, images: Dataset, seed: int):
        self._images, self._seed, self._rank = images, seed, comm.get_rank()

    def __getitem__(self, item: tuple[int, int]) -> Any:
        place, index = item
        with seeded(seed_at(self._seed, IMAGE, self._rank, place)):
            return self._images[index]


def _as_it_is(x: Any) -> Any:
    return x
