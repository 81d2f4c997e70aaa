"""train_net.py as a user calls it: processes, real images, real evaluation."""

import json
import re
import sys

import cv2
import forked
import processes
import pytest
import torch
from detectron2.engine import DefaultTrainer
from models import ROOT
from photographs import crowded_tile, voc_corners, voc_xml

pytestmark = pytest.mark.long

# A small detector of real photographs that trains in seconds
OVERRIDES = [
    *("MODEL.RPN.POST_NMS_TOPK_TRAIN", "100"),
    *("MODEL.RPN.BATCH_SIZE_PER_IMAGE", "1000000"),
    *("MODEL.FPN.OUT_CHANNELS", "16"),
    *("MODEL.ROI_BOX_HEAD.FC_DIM", "32"),
    *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "32"),
    *("INPUT.MIN_SIZE_TRAIN", "(96,)", "INPUT.MIN_SIZE_TEST", "96"),
    *("INPUT.RANDOM_FLIP", "none"),
    *("SOLVER.IMS_PER_BATCH", "1", "SOLVER.WARMUP_ITERS", "0", "SEED", "7"),
]
QUICK = str(ROOT / "configs/quick_schedules/faster_rcnn_R_50_FPN_cpu.yaml")


def command(config, data, output, *overrides, flags=()):
    return [
        *(str(ROOT / "train_net.py"), "--num-gpus", "0", "--config-file", config),
        *("--train-data", data[0], "--test-data", data[1], *flags),
        *(*OVERRIDES, "OUTPUT_DIR", str(output), *overrides),
    ]


def run(config, data, output, *overrides, flags=()):
    """What it printed."""
    output.mkdir(exist_ok=True)
    return forked.printed(command(config, data, output, *overrides, flags=flags), output)


def losses(output):
    """By iteration, the last value logged of each."""
    records = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    return {
        r["iteration"]: {k: v for k, v in r.items() if k.startswith(("loss", "total", "ohem/"))}
        for r in records
        if "total_loss" in r
    }


@pytest.fixture(scope="module")
def coco(tree_crowns, tmp_path_factory):
    """One photograph, for training and for test."""
    folder = tmp_path_factory.mktemp("coco")
    image, annotations = crowded_tile(tree_crowns)
    full = json.loads((tree_crowns / "train.json").read_text())
    full.update(images=[image], annotations=annotations)
    (folder / "one.json").write_text(json.dumps(full))
    name = f"coco:{folder / 'one.json'}:{tree_crowns / 'tiles'}"
    return name, name


@pytest.fixture(scope="module")
def voc(tree_crowns, tmp_path_factory):
    """The same in Pascal VOC format."""
    folder = tmp_path_factory.mktemp("voc")
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    image, annotations = crowded_tile(tree_crowns)
    picture = cv2.imread(str(tree_crowns / "tiles" / image["file_name"]))
    objects = [("tree", *voc_corners(annotation["bbox"])) for annotation in annotations]
    xml = voc_xml(image["width"], image["height"], objects)
    for name in ("one", "two"):
        cv2.imwrite(str(folder / f"JPEGImages/{name}.jpg"), picture)
        (folder / f"Annotations/{name}.xml").write_text(xml)
    for split in ("train", "test"):
        (folder / f"ImageSets/Main/{split}.txt").write_text("one\ntwo")
    return f"voc:{folder}:train", f"voc:{folder}:test"


def test_trains_evaluates_and_evaluates_again(coco, tmp_path):
    out = run(QUICK, coco, tmp_path, "SOLVER.MAX_ITER", "21")
    (line,) = re.findall(r".*OHEM is active.*", out)
    assert "OHEMROIHeads" in line and "32 hardest" in line
    assert "NUM_CLASSES is 1" in out and "eta:" in out and "loss_box_reg" in out
    (scalars,) = [s for i, s in losses(tmp_path).items() if i == 19]
    for name in ("num_fg", "num_bg", "num_candidates", "num_survivors", "cut", "mean_cls_hard"):
        assert f"ohem/{name}" in scalars
    trained = re.findall(r"copypaste: (\S+)", out)
    again = run(
        *(QUICK, coco, tmp_path, "MODEL.WEIGHTS", str(tmp_path / "model_final.pth")),
        flags=["--eval-only"],
    )
    assert re.findall(r"copypaste: (\S+)", again) == trained and len(trained) >= 2


def test_a_name_of_the_model_zoo_and_voc_data(voc, tmp_path):
    out = run(
        *("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml", voc, tmp_path),
        *("MODEL.ROI_HEADS.NAME", "OHEMROIHeads", "MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu"),
        *("MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.RES2_OUT_CHANNELS", "64"),
        *("SOLVER.MAX_ITER", "2", "SOLVER.BASE_LR", "0.001", "DATALOADER.NUM_WORKERS", "0"),
    )
    assert "OHEM is active" in out and "NUM_CLASSES is 1, as in the data: tree" in out
    assert re.search(r"copypaste: AP,AP50,AP75", out)


def test_images_without_objects(coco, tree_crowns, tmp_path):
    folder = tmp_path / "negatives"
    folder.mkdir()
    for file in sorted((tree_crowns / "tiles").iterdir())[:3]:
        (folder / file.name).symlink_to(file)
    output = tmp_path / "output"
    out = run(QUICK, coco, output, "SOLVER.MAX_ITER", "11", flags=("--negatives", str(folder)))
    assert "3 of 4 images show no object" in out
    assert "FILTER_EMPTY_ANNOTATIONS: false" in (output / "config.yaml").read_text()
    assert losses(output)


MODULE = """
from detectron2.modeling import ROI_HEADS_REGISTRY, StandardROIHeads
from ohem_d2 import OHEMMixin

def add_my_config(cfg):
    cfg.MODEL.MY_KEY = 1

@ROI_HEADS_REGISTRY.register()
class MyHeads(OHEMMixin, StandardROIHeads):
    pass
"""


def test_heads_and_keys_of_ones_own_and_an_old_run_set_aside(coco, tmp_path):
    (tmp_path / "my_heads.py").write_text(MODULE)
    (tmp_path / "metrics.json").write_text("old")
    overrides = ("MODEL.ROI_HEADS.NAME", "MyHeads", "MODEL.MY_KEY", "2", "SOLVER.MAX_ITER", "11")
    flags = ("--overwrite", "--import", "my_heads")
    out = processes.run(  # started as a user does, with nothing imported before
        (sys.executable, "-W", "ignore", *command(QUICK, coco, tmp_path, *overrides, flags=flags)),
        PYTHONPATH=processes.python_path(ROOT, tmp_path),
    )
    (line,) = re.findall(r".*OHEM is active.*", out)
    assert "MyHeads" in line
    saved = (tmp_path / "config.yaml").read_text()
    assert "MY_KEY: 2" in saved
    assert (tmp_path / "earlier_1/metrics.json").read_text() == "old"


def test_wrong_names_and_used_folders_are_told(coco, tmp_path):
    (tmp_path / "model_0000004.pth").write_bytes(b"of another run")
    for config, data, flags, message in (
        ("configs/nothing.yaml", coco, (), "configs/nothing.yaml: no such file"),
        (QUICK, ("coco:missing.json:images", coco[1]), (), "missing.json does not exist"),
        (QUICK, coco, ("--import", "no_such_module"), "is its folder in PYTHONPATH?"),
        (QUICK, coco, (), f"OUTPUT_DIR {tmp_path} has a run already (model_0000004.pth). --resume"),
    ):
        done = forked.run(command(config, data, tmp_path, flags=flags), tmp_path)
        assert done.status != 0 and message in done.stderr
    assert not (tmp_path / "config.yaml").exists()


@pytest.mark.skipif(
    "state_dict" not in vars(DefaultTrainer), reason="this Detectron2 saves no optimizer"
)
def test_killed_and_resumed_as_if_never_interrupted(coco, tree_crowns, tmp_path):
    """With images, flips and RoIs at random, in the warm-up and after it."""
    name = f"coco:{tree_crowns / 'train.json'}:{tree_crowns / 'tiles'}"
    settings = [
        *("SOLVER.MAX_ITER", "31", "SOLVER.CHECKPOINT_PERIOD", "3"),
        *("MODEL.ROI_HEADS.OHEM.WARMUP_ITERS", "7", "MODEL.RPN.BATCH_SIZE_PER_IMAGE", "64"),
        *("INPUT.RANDOM_FLIP", "horizontal", "SOLVER.IMS_PER_BATCH", "2"),
        *("DATALOADER.NUM_WORKERS", "1"),
    ]
    data = (name, coco[1])
    run(QUICK, data, tmp_path / "whole", *settings)
    marker = tmp_path / "killed/last_checkpoint"
    forked.kill_when(
        lambda: marker.exists() and marker.read_text() >= "model_0000005.pth",
        command(QUICK, data, tmp_path / "killed", *settings),
        tmp_path,
    )
    assert not (tmp_path / "killed/model_final.pth").exists()
    run(QUICK, data, tmp_path / "killed", *settings, flags=["--resume"])
    whole, resumed = losses(tmp_path / "whole"), losses(tmp_path / "killed")
    # medians of the last 20 iterations
    assert resumed[30] == whole[30] and len(whole[30]) > 10
    weights = [torch.load(tmp_path / f / "model_final.pth")["model"] for f in ("whole", "killed")]
    for name in weights[0]:
        assert torch.equal(weights[0][name], weights[1][name]), name
