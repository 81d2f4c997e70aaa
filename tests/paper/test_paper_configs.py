"""The configurations of the paper's experiments, against its tables."""

import forked
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.events import EventStorage
from models import ROOT, batch, detector

from ohem_d2 import OHEMMixin
from ohem_d2.tools.errors import InputError
from projects.paper.ohem_paper import experiment as recipe

CONFIGS = ROOT / "projects/paper/configs"

# Table 1: row, experiment, network, N, learning rate, B, bg_lo
TABLE = """
 1 fast_rcnn vgg_m 2 .001  128 0.1
 2 fast_rcnn vgg16 2 .001  128 0.1
 3 bg_lo_0   vgg_m 2 .001  128 0
 4 bg_lo_0   vgg16 2 .001  128 0
 5 fast_rcnn vgg16 1 .001  128 0.1
 6 bg_lo_0   vgg16 1 .001  128 0
 7 all_rois  vgg_m 1 .004 2048 0
 8 all_rois  vgg_m 2 .004 2048 0
 9 all_rois  vgg16 1 .003 2048 0
10 all_rois  vgg16 2 .003 2048 0
11 ohem      vgg16 1 .001  128 0
12 ohem      vgg_m 2 .001  128 0
13 ohem      vgg16 2 .001  128 0
"""
ROWS = [line.split() for line in TABLE.strip().splitlines()]


def load(name):
    cfg = recipe.load_config(CONFIGS / name)
    cfg.MODEL.DEVICE = "cpu"
    return cfg


def file_of(folder, number, experiment, network, n, *_):
    return f"{folder}/{int(number):02d}_{experiment}_{network}_n{n}.yaml"


def bg_lo(cfg):
    """The lowest IoU that is background; only heads of that name read the key."""
    heads = cfg.MODEL.ROI_HEADS
    assert (list(heads.IOU_THRESHOLDS), list(heads.IOU_LABELS)) == ([0.5], [0, 1])
    return heads.BG_LO if "BgLo" in heads.NAME else 0


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_row_of_table_1(row):
    _, experiment, network, n, lr, b, lo = row
    cfg = load(file_of("voc07", *row))
    heads, solver = cfg.MODEL.ROI_HEADS, cfg.SOLVER
    assert cfg.MODEL.BACKBONE.NAME == f"build_{network}_backbone"
    assert solver.IMS_PER_BATCH * solver.ACCUMULATION_STEPS == int(n)
    assert float(lr) == solver.BASE_LR
    assert heads.BATCH_SIZE_PER_IMAGE * int(n) == int(b)
    assert bg_lo(cfg) == float(lo)
    # Detectron2 calls all RoIs background where there is no object.
    assert cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS == (float(lo) > 0)
    names = {"ohem": "OHEMROIHeads", "fast_rcnn": "BgLoROIHeads"}
    assert heads.NAME == names.get(experiment, "StandardROIHeads")
    assert heads.POSITIVE_FRACTION == 0.25
    # the networks, as published
    box = cfg.MODEL.ROI_BOX_HEAD
    expected = {"vgg16": (2, 7, [4096, 4096]), "vgg_m": (1, 6, [4096, 1024])}[network]
    assert (cfg.MODEL.BACKBONE.FREEZE_AT, box.POOLER_RESOLUTION, box.VGG_FC_DIMS) == expected
    assert box.POOLER_TYPE == "ROIPool" and box.VGG_DROPOUT == 0.5
    assert not box.CLS_AGNOSTIC_BBOX_REG and box.SMOOTH_L1_BETA == 1.0
    assert cfg.MODEL.PIXEL_MEAN == [102.9801, 115.9465, 122.7717]
    # data and schedule
    assert cfg.DATASETS.TRAIN == ("voc_2007_trainval_no_difficult",)
    assert cfg.DATASETS.TEST == ("voc_2007_test",)
    assert (solver.STEPS, solver.MAX_ITER) == ((30000, 60000), 80000)
    assert (solver.MOMENTUM, solver.WEIGHT_DECAY, solver.GAMMA) == (0.9, 0.0005, 0.1)
    assert (solver.BIAS_LR_FACTOR, solver.WEIGHT_DECAY_BIAS) == (2.0, 0.0)
    assert (cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN) == ((600,), 1000)
    assert (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST) == (600, 1000)
    assert cfg.INPUT.RANDOM_FLIP == "horizontal"
    assert heads.NMS_THRESH_TEST == 0.3


def test_ohem_keeps_the_papers_defaults():
    cfg = load(file_of("voc07", *ROWS[12]))
    ohem = cfg.MODEL.ROI_HEADS.OHEM
    assert (ohem.RANK_CLS_WEIGHT, ohem.RANK_LOC_WEIGHT) == (1.0, 1.0)
    assert (ohem.NMS_THRESH, ohem.NMS_SCOPE, ohem.BUDGET) == (0.7, "class", "image")
    assert ohem.READONLY_DROPOUT and ohem.WARMUP_ITERS == 0


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_row_of_the_miniature_samples_as_the_papers(row):
    small, full = (load(file_of(folder, *row)) for folder in ("mini", "voc07"))
    for key in (
        "NAME",
        "BATCH_SIZE_PER_IMAGE",
        "POSITIVE_FRACTION",
        "BG_LO",
        "IOU_THRESHOLDS",
        "IOU_LABELS",
    ):
        assert small.MODEL.ROI_HEADS[key] == full.MODEL.ROI_HEADS[key], key
    assert small.MODEL.ROI_HEADS.OHEM == full.MODEL.ROI_HEADS.OHEM
    key = "FILTER_EMPTY_ANNOTATIONS"
    assert small.DATALOADER[key] == full.DATALOADER[key]
    for key in ("IMS_PER_BATCH", "ACCUMULATION_STEPS", "BIAS_LR_FACTOR", "WEIGHT_DECAY"):
        assert small.SOLVER[key] == full.SOLVER[key], key
    assert small.SOLVER.BASE_LR == pytest.approx(3 * full.SOLVER.BASE_LR)
    assert ("lite_m" in small.MODEL.BACKBONE.NAME) == ("vgg_m" in full.MODEL.BACKBONE.NAME)


@pytest.mark.parametrize("row", ["loss_layer", "bootstrapping"])
@pytest.mark.parametrize("folder", ["voc07", "mini"])
def test_other_samplers(folder, row):
    cfg = load(f"{folder}/{row}_vgg16_n2.yaml")
    full = load(file_of(folder, *ROWS[12]))
    assert bg_lo(cfg) == 0
    assert cfg.SOLVER.TRAINER == ("bootstrapping" if row == "bootstrapping" else "online")
    if row == "loss_layer":
        assert cfg.MODEL.ROI_HEADS.NAME == "LossLayerROIHeads"
        full.MODEL.ROI_HEADS.NAME = "LossLayerROIHeads"
        assert cfg.MODEL == full.MODEL and cfg.SOLVER == full.SOLVER


# (folder, training sets, test sets)
DATA = [
    ("voc07+12", ["voc_2007_trainval", "voc_2012_trainval"], ["voc_2007_test"]),
    ("voc12", ["voc_2012_trainval"], []),
    ("voc07++12", ["voc_2007_trainval", "voc_2007_test", "voc_2012_trainval"], []),
]


@pytest.mark.parametrize(("folder", "train", "test"), DATA, ids=lambda x: str(x))
def test_other_pascal_data(folder, train, test):
    for experiment in ("fast_rcnn", "ohem"):
        cfg = load(f"{folder}/{experiment}_vgg16.yaml")
        assert cfg.DATASETS.TRAIN == tuple(f"{name}_no_difficult" for name in train)
        assert cfg.DATASETS.TEST == tuple(test)
        files = tuple(f"datasets/proposals/{name}.pkl" for name in train)
        assert cfg.DATASETS.PROPOSAL_FILES_TRAIN == files
        assert (cfg.MODEL.ROI_HEADS.NAME == "OHEMROIHeads") == (experiment == "ohem")
        assert bg_lo(cfg) == (0 if experiment == "ohem" else 0.1)


def test_coco():
    cfg = load("coco/ohem_vgg16.yaml")
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 80
    assert cfg.MODEL.ROI_HEADS.NAME == "OHEMROIHeads"
    assert cfg.DATASETS.TRAIN == ("coco_2014_train",)


def test_release_differs_from_the_paper_by_the_schedule():
    for experiment, row in (("fast_rcnn", ROWS[1]), ("ohem", ROWS[12])):
        release = load(f"voc07-release/{experiment}_vgg16.yaml")
        assert (release.SOLVER.STEPS, release.SOLVER.MAX_ITER) == ((30000,), 40000)
        paper = load(file_of("voc07", *row))
        paper.SOLVER.STEPS, paper.SOLVER.MAX_ITER = (30000,), 40000
        assert release == paper


ALL = sorted(
    path.relative_to(CONFIGS).as_posix()
    for path in CONFIGS.rglob("*.yaml")
    if not path.name.startswith("Base-") and path.parent.name != "mini"
)


@pytest.mark.parametrize("name", ALL)
def test_trains_a_step_and_every_data_set_is_registered(name):
    cfg = load(name)
    for data in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        assert data in DatasetCatalog.list()
        assert MetadataCatalog.get(data).thing_classes
    assert len(cfg.DATASETS.PROPOSAL_FILES_TRAIN) == len(cfg.DATASETS.TRAIN)
    assert len(cfg.DATASETS.PROPOSAL_FILES_TEST) == len(cfg.DATASETS.TEST)
    # the same network, narrow
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.ROI_BOX_HEAD.VGG_FC_DIMS = [16, 16]
    if "vgg16" in cfg.MODEL.BACKBONE.NAME:
        cfg.MODEL.BACKBONE.FREEZE_AT = 5  # its backward is not what this is about
    model = detector(cfg)
    is_ohem = cfg.MODEL.ROI_HEADS.NAME in ("OHEMROIHeads", "LossLayerROIHeads")
    assert isinstance(model.roi_heads, OHEMMixin) == is_ohem
    with EventStorage() as storage:
        losses = model(batch(cfg)[:1])
        sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert ("ohem/num_fg" in storage.latest()) == is_ohem


# ---- the command of one experiment --------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["MODEL.DEVICE", "cpu"], "datasets/weights/vgg16.pth does not exist"),
        (["MODEL.DEVICE", "cpu", "SOLVER.TRAINER", "offline"], "SOLVER.TRAINER = 'offline'"),
    ],
)
def test_says_what_is_missing(overrides, message, tmp_path):
    config = str(CONFIGS / "voc07/13_ohem_vgg16_n2.yaml")
    given = ("--config-file", config, *overrides, "OUTPUT_DIR", tmp_path / "out")
    done = forked.run([ROOT / "projects/paper/train.py", *given], tmp_path)
    assert done.status == 1 and message in done.stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"PROPOSAL_FILES_TRAIN": ()}, "to DATASETS.PROPOSAL_FILES_TRAIN"),
        ({"PROPOSAL_FILES_TRAIN": ("no.pkl",)}, "no.pkl does not exist"),
    ],
)
def test_missing_proposals(changes, message, monkeypatch):
    cfg = load("voc07/13_ohem_vgg16_n2.yaml")
    cfg.MODEL.WEIGHTS = ""
    cfg.DATASETS.TEST = cfg.DATASETS.PROPOSAL_FILES_TEST = ()
    for key, value in changes.items():
        cfg.DATASETS[key] = value
    monkeypatch.setattr(DatasetCatalog, "get", lambda name: [])
    with pytest.raises(InputError, match=message):
        recipe.check_files(cfg)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_there_is_not():
    cfg = load("voc07/13_ohem_vgg16_n2.yaml")
    cfg.MODEL.DEVICE = "cuda:0"
    with pytest.raises(InputError, match="MODEL.DEVICE = 'cuda:0'"):
        recipe.check_files(cfg)
