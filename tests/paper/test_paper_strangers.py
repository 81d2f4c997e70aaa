"""Files of strangers are read by the annex, which runs none of the code that they hold."""

import json
import re

import hostile
import pytest
from models import ROOT, config

from ohem_d2.tools.data.datasets import register_datasets
from ohem_d2.tools.errors import InputError, UntrustedFile
from ohem_d2.tools.trust import trusting
from projects.paper.ohem_paper.experiment import add_settings
from projects.paper.ohem_paper.training_loss import TrainingImages
from projects.paper.ohem_paper.working_set import WorkingSet


@pytest.fixture
def cfg(tree_crowns, tmp_path):
    """A training whose proposals make a folder when they are unpickled."""
    full = json.loads((tree_crowns / "train.json").read_text())
    ids = sorted({a["image_id"] for a in full["annotations"]})[:2]
    full["images"] = [image for image in full["images"] if image["id"] in ids]
    full["annotations"] = [a for a in full["annotations"] if a["image_id"] in ids]
    (tmp_path / "two.json").write_text(json.dumps(full))
    cfg = config("fpn", "MODEL.LOAD_PROPOSALS", True)
    add_settings(cfg)
    cfg.DATASETS.TRAIN = (f"coco:{tmp_path / 'two.json'}:{tree_crowns / 'tiles'}",)
    proposals = hostile.proposals(tmp_path / "two.pkl", tmp_path / "canary", ids)
    cfg.DATASETS.PROPOSAL_FILES_TRAIN = (str(proposals),)
    register_datasets(cfg.DATASETS.TRAIN)
    return cfg


@pytest.mark.parametrize("reader", [TrainingImages, WorkingSet])
def test_code_in_proposals_does_not_run_unless_it_is_trusted(cfg, reader, tmp_path):
    with pytest.raises(UntrustedFile, match="two.pkl holds .*mkdir.* add --trust"):
        reader(cfg)
    assert not (tmp_path / "canary").exists()
    with trusting():
        reader(cfg)
    assert (tmp_path / "canary").exists()


def test_proposals_are_not_read_behind_the_back_of_the_configuration(cfg, tmp_path):
    cfg.MODEL.LOAD_PROPOSALS = False  # so that the check at the start passes the file over
    with pytest.raises(InputError, match="TRAINING_LOSS.PERIOD > 0 takes MODEL.LOAD_PROPOSALS"):
        TrainingImages(cfg)
    assert not (tmp_path / "canary").exists()


def test_there_is_one_way_in():
    """No project unpickles by itself, or has Detectron2 do it."""
    reads = re.compile(r"pickle\.loads?\(|proposal_files=|allow_pickle|weights_only=F")
    found = {
        path.relative_to(ROOT / "projects").as_posix()
        for path in (ROOT / "projects").rglob("*.py")
        if reads.search(path.read_text())
    }
    assert not found
