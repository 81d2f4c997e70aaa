"""Where the data goes on: against Detectron2's loader, and against runs without an interruption."""

import itertools

import interrupted
import pytest
import torch
from detectron2.data import DatasetMapper, build_detection_train_loader

from ohem_d2.tools.training.batches import ResumableLoader
from ohem_d2.tools.training.seeds import SAMPLER, seed_at, seeded

SAMPLERS = ("TrainingSampler", "RepeatFactorTrainingSampler", "RandomSubsetTrainingSampler")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    interrupted.write_images(folder)
    return folder


def loader(cfg, mapper=None):
    return ResumableLoader(cfg, mapper or DatasetMapper(cfg, is_train=True))


def ids(batches):
    return [[x["image_id"] for x in batch] for batch in batches]


def take(batches, num):
    return list(itertools.islice(batches, num))


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("grouping", [True, False])
def test_order_is_detectron2s_without_workers(images, tmp_path, sampler, grouping):
    overrides = ("DATALOADER.SAMPLER_TRAIN", sampler, "DATALOADER.ASPECT_RATIO_GROUPING", grouping)
    cfg = interrupted.config(images, tmp_path, *overrides, "SOLVER.IMS_PER_BATCH", 4)
    with seeded(seed_at(cfg.SEED, SAMPLER)):
        expected = ids(take(build_detection_train_loader(cfg), 25))
    assert ids(take(loader(cfg), 25)) == expected
    kinds = [{image % 5 < 2 for image in batch} for batch in expected]
    assert any(len(kind) == 2 for kind in kinds) != grouping
    assert len({image for batch in expected for image in batch}) >= 20


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("taken", [1, 8, 19])
def test_goes_on_with_the_same_images_and_the_same_chance(images, tmp_path, workers, taken):
    whole = take(loader(interrupted.config(images, tmp_path)), 20)
    first = loader(interrupted.config(images, tmp_path))
    take(first, taken)
    cfg = interrupted.config(images, tmp_path, "DATALOADER.NUM_WORKERS", workers)
    rest = loader(cfg)
    rest.load_state_dict(first.state_dict())
    states = torch.get_rng_state()
    found = take(rest, 20 - taken)
    assert torch.equal(torch.get_rng_state(), states)
    assert ids(found) == ids(whole[taken:])
    for ours, theirs in zip(sum(found, []), sum(whole[taken:], [])):
        assert torch.equal(ours["image"], theirs["image"])
    sizes = {x["image"].shape for batch in whole for x in batch}
    assert len(sizes) == 6  # the mapper does draw


def test_nothing_is_loaded_that_was_seen_before(images, tmp_path):
    loaded = []
    cfg = interrupted.config(images, tmp_path)
    going_on = loader(cfg, lambda record: loaded.append(record["image_id"]) or record)
    going_on.load_state_dict({"seed": 3, "images": 2 * 100_000})
    assert ids(take(going_on, 2)) == [loaded[:2], loaded[2:]]


def test_another_iteration_goes_on_too(images, tmp_path):
    cfg = interrupted.config(images, tmp_path)
    whole, pieces = ids(take(loader(cfg), 6)), loader(cfg)
    assert ids(take(pieces, 2)) + ids(take(pieces, 4)) == whole


def test_the_random_seed_of_a_run_stays(images, tmp_path):
    cfg = interrupted.config(images, tmp_path, "SEED", -1)
    first, second = loader(cfg), loader(cfg)
    assert first.state_dict()["seed"] != second.state_dict()["seed"]
    take(first, 3)
    second.load_state_dict(first.state_dict())
    assert ids(take(second, 20)) == ids(take(first, 20))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_seed_that_is_changed_has_no_effect(images, tmp_path, sampler):
    overrides = ("DATALOADER.SAMPLER_TRAIN", sampler)
    first = loader(interrupted.config(images, tmp_path, *overrides))
    second = loader(interrupted.config(images, tmp_path, *overrides, "SEED", 4))
    assert ids(take(second, 20)) != ids(take(first, 20))
    second.load_state_dict({"seed": 3, "images": 0})
    first.load_state_dict({"seed": 3, "images": 0})
    assert ids(take(second, 20)) == ids(take(first, 20))


def test_other_batches_go_on_at_about_the_same_place(images, tmp_path):
    first = loader(interrupted.config(images, tmp_path))
    take(first, 9)
    second = loader(interrupted.config(images, tmp_path, "SOLVER.IMS_PER_BATCH", 6))
    second.load_state_dict(first.state_dict())
    assert second.state_dict() == first.state_dict() == {"seed": 3, "images": 18}


def test_records_that_do_not_say_their_size(images, tmp_path):
    cfg = interrupted.config(images, tmp_path)
    records = [{"image_id": i} for i in range(5)]
    found = take(ResumableLoader(cfg, lambda record: record, records), 5)
    assert sorted(sum(ids(found), [])) == sorted(2 * list(range(5)))
    # Among those that do they have no batches of their own.
    records += [{"image_id": i, "width": 64, "height": 48} for i in range(5, 15)]
    found = ids(take(ResumableLoader(cfg, lambda record: record, records), 30))
    assert any(min(batch) < 5 <= max(batch) for batch in found)


@pytest.mark.parametrize("sampler", ["", "Category"])
def test_weighted_sampling_of_images_without_objects_and_keypoints(images, tmp_path, sampler):
    """Each data set is drawn by its factor; Detectron2 takes the factors of other images."""
    name = f"Weighted{sampler}TrainingSampler"
    cfg = interrupted.config(images, tmp_path, "DATALOADER.SAMPLER_TRAIN", name)
    cfg.DATASETS.TRAIN_REPEAT_FACTOR = [["many", 1.0], ["few", 3.0]]
    cfg.MODEL.KEYPOINT_ON = True
    pose = {"category_id": 0, "bbox": [1, 1, 9, 9], "bbox_mode": 0, "keypoints": [1, 1, 2] * 17}
    records = [
        {"image_id": 10 * i + j, "data_set": ("many", "few")[i], "annotations": [pose] * (j % 2)}
        for i in range(2)
        for j in range(4)
    ]
    drawn = ids(take(ResumableLoader(cfg, lambda record: record, records), 32))
    drawn = [image for batch in drawn for image in batch]
    assert {image: drawn.count(image) for image in sorted(set(drawn))} == {
        **dict.fromkeys(range(4), 4),
        **dict.fromkeys(range(10, 14), 12),
    }


def test_drawing_leaves_no_trace():
    before = torch.rand(1), torch.get_rng_state()
    with seeded(5):
        first = torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before[1])
    with seeded(5):
        assert torch.equal(torch.rand(3), first)
    places = list(itertools.product([1, 2], [0, 1], [0, 1]))
    assert len({seed_at(3, *place) for place in places}) == len(places)
