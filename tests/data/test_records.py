"""Data sets of a configuration, with the proposals of each split."""

import json
import pickle

import numpy as np
import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog
from hostile import Payload

from ohem_d2 import add_ohem_config
from ohem_d2.tools.data.datasets import register_datasets
from ohem_d2.tools.data.records import records_of, training_records
from ohem_d2.tools.training.batches import ResumableLoader
from ohem_d2.tools.trust import UntrustedFile


@pytest.fixture
def cfg(tmp_path):
    """One data set in both splits, each with proposals of its own."""
    image = {"id": 1, "file_name": "a.jpg", "height": 48, "width": 64}
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0}
    coco = {"images": [image], "annotations": [box], "categories": [{"id": 1, "name": "x"}]}
    (tmp_path / "all.json").write_text(json.dumps(coco))
    (tmp_path / "a.jpg").touch()
    cfg = get_cfg()
    add_ohem_config(cfg)
    name = f"coco:{tmp_path / 'all.json'}:{tmp_path}"
    register_datasets([name])
    cfg.MODEL.LOAD_PROPOSALS = True
    for split, edge in (("TRAIN", 10), ("TEST", 20)):
        file = tmp_path / f"{split}.pkl"
        write(file, boxes=[np.float32([[0, 0, edge, edge]])])
        cfg.DATASETS[split] = (name,)
        cfg.DATASETS[f"PROPOSAL_FILES_{split}"] = (str(file),)
    yield cfg
    DatasetCatalog.remove(name)


def write(file, **values):
    content = {"ids": [1], "objectness_logits": [np.zeros(1)], "bbox_mode": 0, **values}
    file.write_bytes(pickle.dumps(content))


def test_each_split_has_its_own_proposals(cfg):
    (training,) = training_records(cfg)[0]
    (test,) = records_of(cfg, cfg.DATASETS.TEST[0], "TEST")
    assert training["proposal_boxes"].tolist() == [[0, 0, 10, 10]]
    assert test["proposal_boxes"].tolist() == [[0, 0, 20, 20]]


def test_those_of_each_split_are_looked_into(cfg, tmp_path):
    boxes = [np.float32([[0, 0, 10, 10]])]
    write(tmp_path / "TRAIN.pkl", boxes=boxes, more=Payload(tmp_path / "made"))
    for load in (training_records, lambda cfg: ResumableLoader(cfg, lambda record: record)):
        with pytest.raises(UntrustedFile, match="TRAIN.pkl holds posix.mkdir"):
            load(cfg)
    assert not (tmp_path / "made").exists()
