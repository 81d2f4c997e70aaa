"""Configurations as commands take them."""

from ohem_d2.tools.check import config_faults
from ohem_d2.tools.load_model import default_cfg, load_cfg

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
