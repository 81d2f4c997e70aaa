"""Training scripts that know nothing of OHEM train with it, unedited: tests/scripts."""

import json
import os
import subprocess
import sys

import forked
import processes
import pytest
from detectron2 import model_zoo
from detectron2.config import defaults, get_cfg
from models import ROOT
from photographs import crowded_tile

SCRIPTS = ROOT / "tests/scripts"

# A small detector of 1 class that trains from scratch, for each kind of configuration
YAML = [
    *("MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.PIXEL_STD", "[57.0, 57.0, 58.0]"),
    *("MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.RES2_OUT_CHANNELS", "64"),
    *("MODEL.RESNETS.NORM", "BN", "MODEL.BACKBONE.FREEZE_AT", "0"),
    *("MODEL.FPN.OUT_CHANNELS", "16", "MODEL.ROI_BOX_HEAD.FC_DIM", "32"),
    *("MODEL.ROI_HEADS.NUM_CLASSES", "1", "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "32"),
    *("MODEL.RPN.POST_NMS_TOPK_TRAIN", "100", "MODEL.RPN.POST_NMS_TOPK_TEST", "50"),
    *("DATASETS.TRAIN", "('photos_train',)", "DATASETS.TEST", "('photos_test',)"),
    *("DATALOADER.NUM_WORKERS", "0", "INPUT.MIN_SIZE_TRAIN", "(96,)", "INPUT.MIN_SIZE_TEST", "96"),
    *("SOLVER.IMS_PER_BATCH", "1", "SOLVER.MAX_ITER", "3", "SOLVER.BASE_LR", "0.001", "SEED", "1"),
]
LAZY = [
    *("train.device=cpu", "train.init_checkpoint=''", "train.max_iter=3"),
    *("model.pixel_std=[57.0,57.0,58.0]", "model.backbone.bottom_up.freeze_at=0"),
    *("model.backbone.bottom_up.stem.norm=BN", "model.backbone.bottom_up.stages.norm=BN"),
    *("model.roi_heads.num_classes=1", "model.roi_heads.batch_size_per_image=32"),
    *("model.proposal_generator.post_nms_topk=[100,50]", "optimizer.lr=0.001"),
    *("dataloader.train.dataset.names=photos_train", "dataloader.test.dataset.names=photos_test"),
    *("dataloader.train.num_workers=0", "dataloader.test.num_workers=0"),
    *(
        "model.roi_heads.box_head.fc_dims=[32,32]",
        "model.roi_heads.box_predictor.input_shape.channels=32",
    ),
    "dataloader.train.total_batch_size=1",
    "dataloader.train.mapper.augmentations.0.short_edge_length=[96]",
    "dataloader.test.mapper.augmentations.0.short_edge_length=96",
]


@pytest.fixture(scope="module")
def photos(tree_crowns, tmp_path_factory):
    """What the scripts take their data from: environment variables that name one photograph."""
    file = tmp_path_factory.mktemp("photos") / "one.json"
    full = json.loads((tree_crowns / "train.json").read_text())
    image, annotations = crowded_tile(tree_crowns)
    for annotation in annotations:  # for configurations with masks
        x, y, w, h = annotation["bbox"]
        annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    full.update(images=[image], annotations=annotations)
    file.write_text(json.dumps(full))
    return {"PHOTOS_JSON": str(file), "PHOTOS_FOLDER": str(tree_crowns / "tiles")}


def run(script, config, *overrides, **environment):
    """What it printed."""
    command = [sys.executable, "-W", "ignore", script, "--config-file", config]
    command += ["--num-gpus", "0"] if script.name == "default_trainer.py" else []
    return processes.run([*command, *overrides], cwd=SCRIPTS, **environment)


def assert_mined_and_evaluated(printed, output, nms_thresh=0.6):
    (line,) = [line for line in printed.splitlines() if "OHEM is active" in line]
    assert "OHEMROIHeads, the 32 hardest RoIs per image" in line
    assert f"nms_thresh={nms_thresh}" in line
    records = [json.loads(x) for x in (output / "metrics.json").read_text().splitlines()]
    last = [r for r in records if "ohem/num_fg" in r][-1]
    assert last["ohem/num_candidates"] > 32
    assert last["ohem/num_fg"] + last["ohem/num_bg"] == 32
    assert "copypaste: AP,AP50,AP75" in printed


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.py")), ids=lambda path: path.name)
def test_the_scripts_do_not_know_of_ohem(script):
    assert "ohem" not in script.read_text().lower()


def test_by_an_environment_variable(photos, tmp_path):
    """With keys of OHEM in a file, here its warm-up, and on the command line."""
    printed = run(
        SCRIPTS / "default_trainer.py",
        ROOT / "configs/quick_schedules/faster_rcnn_R_50_FPN_cpu.yaml",
        *(*YAML, "MODEL.ROI_HEADS.OHEM.NMS_THRESH", "0.6"),
        *("MODEL.ROI_HEADS.OHEM.WARMUP_ITERS", "0", "OUTPUT_DIR", str(tmp_path)),
        **photos,
        DETECTRON2_ENV_MODULE="ohem_d2.env",
    )
    assert_mined_and_evaluated(printed, tmp_path)


def test_by_one_import(photos, tmp_path):
    """With defaults; keys of OHEM take add_ohem_config(cfg) in addition."""
    script = tmp_path / "plain_loop.py"
    script.write_text("import ohem_d2\n" + (SCRIPTS / "plain_loop.py").read_text())
    printed = run(
        script,
        model_zoo.get_config_file("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"),
        *(*YAML, "MODEL.ROI_HEADS.NAME", "OHEMROIHeads", "OUTPUT_DIR", str(tmp_path)),
        **photos,
    )
    assert_mined_and_evaluated(printed, tmp_path, nms_thresh=0.7)


@pytest.mark.parametrize("config", ["ours", "Detectron2's"])
def test_by_a_lazy_config(config, photos, tmp_path):
    """Our configuration; and one of Detectron2, with OHEM as an override."""
    name = "COCO-Detection/faster_rcnn_R_50_FPN_1x.py"
    file, overrides = ROOT / "configs" / name, ["model.roi_heads.ohem.warmup_iters=0"]
    if config == "Detectron2's":
        name = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py"
        file = model_zoo.get_config_file(name)
        overrides = ["model.roi_heads._target_=ohem_d2.OHEMROIHeads"]
    given = (*LAZY, *overrides, "model.roi_heads.ohem.nms_thresh=0.6")
    printed = forked.printed(
        (SCRIPTS / "lazy_config.py", "--config-file", file, *given, f"train.output_dir={tmp_path}"),
        tmp_path,
        **photos,
    )
    assert_mined_and_evaluated(printed, tmp_path)


def test_importing_the_environment_module_changes_no_default(monkeypatch):
    monkeypatch.setattr(defaults, "_C", defaults._C.clone())
    before = get_cfg().dump()
    import ohem_d2.env

    assert get_cfg().dump() == before
    ohem_d2.env.setup_environment()
    assert get_cfg().MODEL.ROI_HEADS.OHEM.NMS_THRESH == 0.7


def test_ohem_may_be_imported_before_detectron2():
    code = "import ohem_d2; from detectron2.config import get_cfg; get_cfg().MODEL.ROI_HEADS.OHEM"
    environment = {**os.environ, "DETECTRON2_ENV_MODULE": "ohem_d2.env"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment)
    assert done.returncode == 0
