"""From a command line to the configurations of a comparison."""

import argparse
import json
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog
from marks import CLASSES, write_data

from ohem_d2.tools import compare
from ohem_d2.tools.comparison import plan
from ohem_d2.tools.errors import InputError
from ohem_d2.tools.load_model import default_cfg, merge


def arguments(output, *more):
    parser = argparse.ArgumentParser()
    compare.add_arguments(parser)
    return parser.parse_intermixed_args([*more, "--output", str(output)])


@pytest.fixture
def cfg():
    cfg = merge(default_cfg(), str(plan.CONFIG))
    cfg.SOLVER.MAX_ITER = 600
    return cfg


# ---- samplers ----------------------------------------------------------------------------------


def test_samplers_by_kind_and_number(cfg):
    variants = plan.variants_of(cfg, ["random:512", "ohem:64", "quota:128"])
    assert list(variants) == ["random 512", "ohem 64", "quota 128"]
    found = {
        (heads.NAME, heads.BATCH_SIZE_PER_IMAGE, heads.OHEM.BUDGET, heads.OHEM.WARMUP_ITERS)
        for heads in (v.MODEL.ROI_HEADS for v in variants.values())
    }
    before = cfg.MODEL.ROI_HEADS.OHEM
    # a tenth of the iterations is random sampling, as long as the learning rate warms up
    assert found == {
        ("StandardROIHeads", 512, before.BUDGET, before.WARMUP_ITERS),
        ("OHEMROIHeads", 64, "image", 60),
        ("OHEMROIHeads", 128, "quota", 60),
    }
    assert cfg.MODEL.ROI_HEADS.NAME == "StandardROIHeads"  # which all share, and is left alone


def test_samplers_of_ones_own(cfg):
    text = "mine=SOLVER.STEPS (400, 500),MODEL.ROI_HEADS.NAME OHEMROIHeads, SOLVER.BASE_LR 0.1"
    (mine,) = plan.variants_of(cfg, [text]).values()
    assert mine.SOLVER.STEPS == (400, 500) and mine.SOLVER.BASE_LR == 0.1
    assert mine.MODEL.ROI_HEADS.NAME == "OHEMROIHeads"


@pytest.mark.parametrize("kind", ["OHEMCascadeROIHeads", "CascadeROIHeads"])
def test_random_sampling_of_heads_that_mine_are_the_heads_they_are_made_of(cfg, kind):
    cfg.MODEL.ROI_HEADS.NAME = kind
    random, ohem = plan.variants_of(cfg, ["random:128", "ohem:128"]).values()
    assert random.MODEL.ROI_HEADS.NAME == "CascadeROIHeads"
    assert ohem.MODEL.ROI_HEADS.NAME == "OHEMCascadeROIHeads"


@pytest.mark.parametrize(
    ("samplers", "message"),
    [
        (["ohem"], "--samplers 'ohem'; allowed: random:N, ohem:N, quota:N or 'NAME=KEY VALUE"),
        (["ohem:0"], "--samplers 'ohem:0'; allowed"),
        (["ohem:many"], "--samplers 'ohem:many'; allowed"),
        (["hard:128"], "--samplers 'hard:128'; allowed"),
        (["=SEED 1"], "--samplers '=SEED 1'; allowed"),
        (["mine="], "--samplers 'mine='; allowed"),
        (["mine=SOLVER.BASE_LR"], "--samplers 'mine=SOLVER.BASE_LR'; allowed"),
        (["mine=SOLVER.BASE 1"], "SOLVER.BASE"),
        (["ohem:128", "ohem:128"], "--samplers ohem:128 ohem:128: two have the same name"),
    ],
)
def test_samplers_of_no_form_are_named(cfg, samplers, message):
    with pytest.raises(InputError) as e:
        plan.variants_of(cfg, samplers)
    assert message in str(e.value).replace(", or '", " or '")


# ---- what all share ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("marks"), 20)


def test_the_proxy_is_fitted_to_the_data(data, tmp_path):
    cfg = plan.shared_cfg(arguments(tmp_path, "--train-data", data, "--test-data", data))
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == cfg.MODEL.RETINANET.NUM_CLASSES == len(CLASSES)
    # images of 64 pixels are made 320: objects are 50 x 100 and 140 x 70
    sizes = [size for level in cfg.MODEL.ANCHOR_GENERATOR.SIZES for size in level]
    assert len(sizes) == 6 and all(size == pytest.approx(70, rel=0.5) for size in sizes)
    ratios = cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS[0]
    assert ratios == pytest.approx([0.5, 2.0], rel=0.05)
    assert cfg.INPUT.MIN_SIZE_TEST == 320 and cfg.SOLVER.MAX_ITER == plan.LEAST
    assert cfg.TEST.EVAL_PERIOD == plan.LEAST / plan.EVALUATIONS


def test_overrides_come_last(data, tmp_path):
    own = ["SOLVER.MAX_ITER", "50", "MODEL.ANCHOR_GENERATOR.SIZES", "[[9]]"]
    cfg = plan.shared_cfg(arguments(tmp_path, "--train-data", data, "--test-data", data, *own))
    assert cfg.SOLVER.MAX_ITER == 50 and cfg.MODEL.ANCHOR_GENERATOR.SIZES == [[9]]
    assert cfg.TEST.EVAL_PERIOD == 10 and cfg.SOLVER.CHECKPOINT_PERIOD <= 20


def test_a_configuration_of_ones_own_is_left_as_it_is(data, tmp_path):
    file = "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"
    given = arguments(tmp_path, "--train-data", data, "--test-data", data, "--config-file", file)
    cfg, zoo = plan.shared_cfg(given), merge(default_cfg(), file)
    assert cfg.MODEL.ANCHOR_GENERATOR == zoo.MODEL.ANCHOR_GENERATOR
    assert cfg.SOLVER.MAX_ITER == zoo.SOLVER.MAX_ITER
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == len(CLASSES)


@pytest.mark.parametrize(
    ("num", "iterations"), [(10, 400), (1000, 400), (2000, 800), (2130, 900), (99_999, 4000)]
)
def test_the_schedule_grows_with_the_data(num, iterations, monkeypatch):
    """0.4 iterations an image, in whole hundreds; the rate falls after four fifths."""
    box = {"bbox": [1.0, 1.0, 30.0, 30.0], "bbox_mode": 1, "category_id": 0}
    records = [{"height": 320, "width": 320, "annotations": [box]}] * num
    monkeypatch.setattr(plan, "records_of", lambda *_: records)
    monkeypatch.setattr(plan, "check_records", lambda _, name, found, training: (found, [], 0))
    monkeypatch.setattr(plan, "fit_anchors", lambda *_: {"SIZES": [[32]]})
    cfg = merge(default_cfg(), str(plan.CONFIG))
    cfg.DATASETS.TRAIN = ("some",)
    plan.fit_to_data(cfg)
    solver = cfg.SOLVER
    assert (solver.MAX_ITER, solver.STEPS) == (iterations, (int(0.8 * iterations),))
    assert solver.WARMUP_ITERS == iterations // 10


# ---- the split ---------------------------------------------------------------------------------


def test_without_test_data_a_fifth_of_the_images_is_set_apart(data, tmp_path):
    cfg = plan.shared_cfg(arguments(tmp_path / "one", "--train-data", data))
    (train,), (test,) = cfg.DATASETS.TRAIN, cfg.DATASETS.TEST
    pictures = [{r["file_name"] for r in DatasetCatalog.get(name)} for name in (train, test)]
    assert [len(part) for part in pictures] == [16, 4] and not pictures[0] & pictures[1]
    whole = {r["file_name"]: r["annotations"] for r in DatasetCatalog.get(data)}
    assert pictures[0] | pictures[1] == whole.keys()
    for name in (train, test):
        for record in DatasetCatalog.get(name):
            assert record["annotations"] == whole[record["file_name"]]
    # by a fixed seed, whatever the order of the images in the file
    file, folder = map(Path, data.split(":")[1:])
    content = json.loads(file.read_text())
    content["images"].reverse()
    other = tmp_path / "reversed.json"
    other.write_text(json.dumps(content))
    again = plan.shared_cfg(arguments(tmp_path / "two", "--train-data", data))
    assert {r["file_name"] for r in DatasetCatalog.get(again.DATASETS.TEST[0])} == pictures[1]
    name = f"coco:{other}:{folder}"
    turned = plan.shared_cfg(arguments(tmp_path / "three", "--train-data", name))
    assert {r["file_name"] for r in DatasetCatalog.get(turned.DATASETS.TEST[0])} == pictures[1]


def test_data_without_an_object_are_refused(tmp_path):
    name = write_data(tmp_path / "empty", 3)
    file = Path(name.split(":")[1])
    file.write_text(json.dumps(json.loads(file.read_text()) | {"annotations": []}))
    with pytest.raises(InputError, match="there is no object to train on"):
        plan.shared_cfg(arguments(tmp_path, "--train-data", name, "--test-data", name))
