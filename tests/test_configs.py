"""Every YAML of the project is built, compared with Detectron2's own, and trains a step."""

import pytest
import torch
from detectron2 import model_zoo
from detectron2.config import get_cfg
from detectron2.utils.events import EventStorage
from models import ROOT, SHRINK, batch, detector

from ohem_d2 import OHEMMixin, add_ohem_config

CONFIGS = sorted(
    path.relative_to(ROOT / "configs").as_posix()
    for path in (ROOT / "configs").rglob("*.yaml")
    if not path.name.startswith("Base-")
)

# Those whose counterpart in the zoo has another name
COUNTERPARTS = {
    "COCO-InstanceSegmentation/cascade_mask_rcnn_R_50_FPN_1x.yaml": (
        "Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml"
    ),
    "COCO-Detection/cascade_rcnn_R_50_FPN_1x.yaml": "Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml",
}

# What OHEM needs, and what else differs on purpose
DIFFERENCES = {
    "MODEL.ROI_HEADS.NAME",
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE",
    "MODEL.ROI_HEADS.OHEM.WARMUP_ITERS",
    "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA",
}
MORE_DIFFERENCES = {"COCO-Detection/cascade_rcnn_R_50_FPN_1x.yaml": {"MODEL.MASK_ON"}}


def load(file):
    cfg = get_cfg()
    add_ohem_config(cfg)
    cfg.merge_from_file(str(file))
    return cfg


def flatten(node, prefix=""):
    for key, value in node.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


@pytest.mark.parametrize("name", [c for c in CONFIGS if not c.startswith("quick")])
def test_differs_from_detectron2_by_what_ohem_needs(name):
    ours = dict(flatten(load(ROOT / "configs" / name)))
    theirs = dict(flatten(load(model_zoo.get_config_file(COUNTERPARTS.get(name, name)))))
    different = {key for key in ours if ours[key] != theirs[key]}
    assert different <= DIFFERENCES | MORE_DIFFERENCES.get(name, set())
    assert "MODEL.ROI_HEADS.NAME" in different


@pytest.mark.parametrize("name", CONFIGS)
def test_trains_a_step(name):
    cfg = load(ROOT / "configs" / name)
    cfg.merge_from_list([*SHRINK, "MODEL.ROI_HEADS.OHEM.WARMUP_ITERS", 0])
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (), ()
    model = detector(cfg)
    assert isinstance(model.roi_heads, OHEMMixin)
    inputs = batch(cfg)
    with EventStorage() as storage:
        losses = model(inputs)
        sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert "ohem/num_fg" in storage.latest()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
