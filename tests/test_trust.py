"""No code runs from a file unless --trust asks for it: through the commands, with a canary."""

import json

import cv2
import forked
import hostile
import numpy as np
import pytest
from detectron2.config import get_cfg
from models import ROOT, config

import ohem_d2
from ohem_d2.tools import cli
from ohem_d2.tools.data.datasets import register_datasets
from ohem_d2.tools.errors import UntrustedFile
from ohem_d2.tools.load_model import default_cfg, find_config_file
from ohem_d2.tools.training.trainer import OHEMTrainer
from ohem_d2.tools.trust import merge_file, trusting

QUICK = ROOT / "configs/quick_schedules/faster_rcnn_R_50_FPN_cpu.yaml"
# As small and quick as it comes
TINY = [
    *("INPUT.MIN_SIZE_TRAIN", "(96,)", "INPUT.MIN_SIZE_TEST", "96", "DATALOADER.NUM_WORKERS", "0"),
    *("MODEL.RESNETS.DEPTH", "50", "MODEL.RESNETS.STEM_OUT_CHANNELS", "8"),
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", "16"),
    *("MODEL.RESNETS.WIDTH_PER_GROUP", "4", "MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu"),
    *("MODEL.FPN.OUT_CHANNELS", "16", "MODEL.ROI_BOX_HEAD.FC_DIM", "16"),
    *("SOLVER.IMS_PER_BATCH", "1", "SOLVER.MAX_ITER", "1", "MODEL.ROI_HEADS.NUM_CLASSES", "1"),
    *("MODEL.ROI_HEADS.OHEM.WARMUP_ITERS", "0", "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "8"),
]


# ---- configurations -----------------------------------------------------------------------------


def test_a_tag_is_refused_by_file_and_line(tmp_path):
    file = hostile.configuration(tmp_path, tmp_path / "canary")
    for path in (file, file.with_name("base.yaml")):
        with pytest.raises(UntrustedFile, match="base.yaml, line 2: the tag !!python/object/") as e:
            merge_file(default_cfg(), path)
        assert "apply:os.mkdir" in str(e.value) and len(str(e.value).splitlines()) == 1
    (tmp_path / "tuple.yaml").write_text("MODEL:\n  PIXEL_STD: !!python/tuple [1, 2, 3]\n")
    with pytest.raises(UntrustedFile, match="tuple.yaml, line 2: .*!!python/tuple .* a list"):
        merge_file(default_cfg(), tmp_path / "tuple.yaml")
    assert not (tmp_path / "canary").exists()
    with trusting():
        merge_file(default_cfg(), file)
    assert (tmp_path / "canary").exists()


def test_what_detectron2_has_saved_and_brings_is_read(tmp_path):
    cfg = config("cascade", "MODEL.PIXEL_STD", (1.0, 2.0, 3.0), "SOLVER.STEPS", (3, 5))
    (tmp_path / "config.yaml").write_text(cfg.dump())
    assert "!!" not in cfg.dump()  # tuples are saved as lists
    found = default_cfg()
    merge_file(found, tmp_path / "config.yaml")
    assert found.SOLVER.STEPS == (3, 5) and found.MODEL.ROI_HEADS.IOU_THRESHOLDS == [0.5]
    retina = find_config_file("COCO-Detection/retinanet_R_50_FPN_1x.yaml")  # it has a tag
    theirs, ours = get_cfg(), get_cfg()
    theirs.merge_from_file(retina)
    merge_file(ours, retina)
    assert ours == theirs and len(ours.MODEL.ANCHOR_GENERATOR.SIZES[0]) == 3
    assert ohem_d2.get_config("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml").VERSION == 2


# ---- python -m ohem_d2 --------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path):
    """What a run leaves, on one small image, and the data as a command takes them."""
    (tmp_path / "images").mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (96, 96, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "images/a.png"), noise)
    box = {"id": 1, "image_id": 7, "category_id": 1, "iscrowd": 0}
    data = {
        "images": [{"id": 7, "file_name": "a.png", "height": 96, "width": 96}],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [{**box, "bbox": [20, 20, 40, 40], "area": 1600}],
    }
    (tmp_path / "data.json").write_text(json.dumps(data))
    cfg = config("fpn", *TINY, "DATASETS.TRAIN", (f"coco:{tmp_path}/data.json:{tmp_path}/images",))
    (tmp_path / "config.yaml").write_text(cfg.dump())
    (tmp_path / "metrics.json").write_text('{"iteration": 19, "total_loss": 1.0}\n')
    return tmp_path


def precomputed(run):
    """Overrides, and a file that is sound but for its payload."""
    file = hostile.proposals(run / "proposals.pkl", run / "canary", [7])
    return [
        *("MODEL.LOAD_PROPOSALS", "True", "MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals"),
        *("DATASETS.PROPOSAL_FILES_TRAIN", f"('{file}',)"),
    ]


HOSTILE = {
    "configuration": lambda run: ["--config-file", hostile.configuration(run, run / "canary")],
    "pkl": lambda run: ["--weights", hostile.weights(run / "w.pkl", run / "canary")],
    "pth": lambda run: ["--weights", hostile.weights(run / "w.pth", run / "canary")],
    "proposals": precomputed,
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("command", ["inspect", "report"])
def test_commands_run_nothing_unless_told(command, kind, run, capsys):
    arguments = {
        "inspect": ["--config-file", run / "config.yaml", "--output", run / "out"]
        + ["--dataset", f"coco:{run}/data.json:{run}/images"],
        "report": [run, "--images", 1, "--weights", run / "metrics.json"],
    }
    # What is given twice is taken from the end.
    arguments = [str(a) for a in (command, *arguments[command], *HOSTILE[kind](run))]
    if command == "inspect":
        with pytest.raises(SystemExit) as end:
            cli.main(arguments)
        said = str(end.value)
    else:  # the curves can be shown
        cli.main(arguments)
        said = next(x for x in capsys.readouterr().err.splitlines() if "Without classes" in x)
    assert not (run / "canary").exists()
    assert "mkdir" in said and "--trust" in said and len(said.splitlines()) == 1
    name = {"configuration": "base.yaml, line 2", "pkl": "w.pkl", "pth": "w.pth"}.get(kind, "s.pkl")
    assert said.count(name) == 1
    if kind in ("pkl", "pth") and command == "inspect":
        cli.main([*arguments, "--trust"])
        assert (run / "canary").exists() and len(list((run / "out").iterdir())) == 2


# ---- train_net.py -------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["TRAIN", "TEST"])
def test_the_trainers_loaders_run_nothing_from_proposals(split, run):
    cfg = config("fpn", *precomputed(run))
    name = f"coco:{run}/data.json:{run}/images"
    register_datasets([name])
    cfg.DATASETS[split], cfg.DATASETS[f"PROPOSAL_FILES_{split}"] = (
        (name,),
        (f"{run}/proposals.pkl",),
    )
    with pytest.raises(UntrustedFile, match="proposals.pkl holds posix.mkdir"):
        if split == "TRAIN":
            OHEMTrainer.build_train_loader(cfg)
        else:
            OHEMTrainer.build_test_loader(cfg, name)
    assert not (run / "canary").exists()


def test_train_net_runs_nothing_unless_told(run):
    (run / "old").mkdir()
    hostile.weights(run / "old/model_0000009.pkl", run / "canary")
    (run / "old/last_checkpoint").write_text("model_0000009.pkl")
    of_proposals = precomputed(run)
    of_all = [*of_proposals, "MODEL.WEIGHTS", hostile.weights(run / "w.pkl", run / "canary/w")]
    quick, data = ("--config-file", QUICK), f"coco:{run}/data.json:{run}/images"
    tagged = ("--config-file", hostile.configuration(run, run / "canary"))
    cases = {
        "base.yaml, line 2: the tag !!python/object/apply:os.mkdir": (tagged, ()),
        "names 'model_0000009.pkl', which cannot be read": (
            (*quick, "--resume"),
            ("OUTPUT_DIR", run / "old"),
        ),
        "proposals.pkl holds posix.mkdir": (quick, of_proposals),
        "w.pkl holds posix.mkdir": (quick, of_all[-2:]),
    }

    def train(arguments, overrides):
        flags = (ROOT / "train_net.py", "--num-gpus", 0, *arguments, "--train-data", data)
        return forked.run((*flags, *TINY, "OUTPUT_DIR", run / "out", *overrides), run)

    for words, case in cases.items():
        done = train(*case)
        assert done.status == 1 and "Traceback" not in done.stderr
        last = done.stderr.splitlines()[-1]
        assert words in last and ("--trust" in last or "--resume" in last)
    done = train(("--trust", *quick), of_all)
    assert done.status == 0, done.stderr[-2000:]
    assert (run / "out/model_final.pth").is_file()
    # Made by the last run alone: both of its files need the folder not to be there, or to be.
    assert (run / "canary/w").is_dir()
