"""Configurations as commands take them."""

import pytest
from detectron2.modeling import ROI_HEADS_REGISTRY

from ohem_d2.tools.errors import InputError
from ohem_d2.tools.keys import config_faults
from ohem_d2.tools.load_model import default_cfg, heads_that_mine, load_cfg, merge

FASTER = "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"


def test_weights_with_what_tells_detectron2_how_to_read_them(tmp_path):
    (tmp_path / "r50.pth").touch()
    for name, there in (("r50.pth", True), ("r51.pth", False)):
        weights = f"{tmp_path / name}?matching_heuristics=True"
        cfg = default_cfg()
        cfg.MODEL.WEIGHTS = weights
        assert any("r51.pth does not exist" in fault for fault in config_faults(cfg)) != there
    weights = f"{tmp_path / 'r50.pth'}?matching_heuristics=True"
    assert load_cfg(FASTER, weights=weights).MODEL.WEIGHTS == weights


def saved(folder, **values):
    """A configuration of an earlier version, with its keys outside of the node of OHEM."""
    values = {"type_": "softmax", "topk": 8, "passes": 1, "heads": "OHEMROIHeads", **values}
    file = folder / "config.yaml"
    file.write_text(
        """
MODEL:
  ROI_HEADS: {{NAME: {heads}, OHEM: {{BG_IOU_LOW: 0.0, IMPLEMENTATION: readonly}}}}
  ROI_BOX_HEAD: {{FOCAL_LOSS_TYPE: {type_}, FOCAL_LOSS_GAMMA: 2.0, FOCAL_LOSS_ALPHA: -1.0}}
  ROI_KEYPOINT_HEAD: {{OHKM_TOPK: {topk}}}
SOLVER: {{ACCUMULATION_STEPS: {passes}}}
""".format(**values)
    )
    return str(file)


def test_what_an_earlier_version_saved_is_read_and_leaves_nothing(tmp_path):
    cfg, expected = default_cfg(), default_cfg()
    merge(cfg, saved(tmp_path), ["SOLVER.ACCUMULATION_STEPS", "1"])
    expected.MODEL.ROI_HEADS.NAME = "OHEMROIHeads"
    expected.MODEL.ROI_HEADS.OHEM.update(BG_IOU_LOW=0.0, IMPLEMENTATION="readonly")
    assert cfg == expected


@pytest.mark.parametrize(
    "values, said",
    [
        ({"type_": "sigmoid"}, "FOCAL_LOSS_TYPE = 'sigmoid': .* add --import projects.focal$"),
        ({"topk": 3}, "OHKM_TOPK = 3: .* add --import projects.keypoints$"),
        ({"passes": 4}, "ACCUMULATION_STEPS = 4: .* projects/paper/train.py$"),
        ({"heads": "OHEMFocalROIHeads"}, "OHEMFocalROIHeads' was .* add --import projects.focal$"),
    ],
)
def test_what_an_earlier_version_did_is_found_in_projects(values, said, tmp_path, monkeypatch):
    registered = ROI_HEADS_REGISTRY._obj_map  # by another test, perhaps
    monkeypatch.delitem(registered, "OHEMFocalROIHeads", raising=False)
    with pytest.raises(InputError, match=said):
        load_cfg(saved(tmp_path, **values))


@pytest.mark.parametrize("key, value", [("FOCAL_LOSS_TYPE", "sigmoid"), ("FOCAL_LOSS_GAMMA", 1.5)])
def test_with_the_project_its_keys_are_as_ever(key, value, tmp_path):
    given = {"overrides": [f"MODEL.ROI_BOX_HEAD.{key}", value], "modules": ["projects.focal"]}
    cfg = load_cfg(saved(tmp_path, heads="FocalROIHeads"), **given)
    assert cfg.MODEL.ROI_BOX_HEAD[key] == value
    assert cfg.MODEL.ROI_HEADS.NAME == "OHEMFocalROIHeads"


def test_keypoint_heads_that_were_moved_are_named_where_they_are_used():
    cfg = default_cfg()
    cfg.MODEL.ROI_KEYPOINT_HEAD.NAME = "OHKMKeypointHead"
    faults = [list(config_faults(cfg)) for cfg.MODEL.KEYPOINT_ON in (False, True)]
    found = [[fault for fault in some if "--import projects.keypoints" in fault] for some in faults]
    assert [len(some) for some in found] in ([0, 1], [0, 0])  # 0 where the project is imported


def test_counterparts():
    for plain in ("StandardROIHeads", "Res5ROIHeads", "CascadeROIHeads"):
        assert heads_that_mine(plain) == f"OHEM{plain.removeprefix('Standard')}"
    assert heads_that_mine("OHEMROIHeads") == "OHEMROIHeads"
