import pytest
from detectron2.config import CfgNode
from models import ROOT

import ohem_d2
from ohem_d2 import model_zoo

NAME = "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"


def test_file_of_the_clone():
    assert ohem_d2.get_config_file(NAME) == str(ROOT / "configs" / NAME)


def test_yaml_has_the_keys_of_ohem():
    cfg = ohem_d2.get_config(NAME)
    assert isinstance(cfg, CfgNode)
    assert cfg.MODEL.ROI_HEADS.NAME == "OHEMROIHeads"
    assert cfg.MODEL.ROI_HEADS.OHEM.WARMUP_ITERS == 1000


def test_python_file_is_loaded_lazily(tmp_path, monkeypatch):
    (tmp_path / "common").mkdir()
    (tmp_path / "common/base.py").write_text("settings = dict(a=1)")
    (tmp_path / "models").mkdir()
    (tmp_path / "models/one.py").write_text("from ..common.base import settings\nsettings.a += 1\n")
    monkeypatch.setattr(model_zoo, "FOLDERS", (tmp_path,))
    assert ohem_d2.get_config("models/one.py").settings.a == 2


@pytest.mark.parametrize(
    "name",
    ["COCO-Detection/none.yaml", "COCO-Detection", "", "../README.md", str(ROOT / "setup.py")],
)
def test_unknown_name(name):
    with pytest.raises(RuntimeError, match="not a configuration of ohem_d2") as e:
        ohem_d2.get_config(name)
    assert f"  {NAME}" in str(e.value).splitlines()
    assert "Base-RCNN-FPN.yaml" not in str(e.value)  # nothing to train


def test_configurations_inside_the_package_come_first(tmp_path, monkeypatch):
    """As in an installed one, whatever lies beside it."""
    for folder in ("package/configs", "configs"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.yaml").touch()
    folders = (tmp_path / "package/configs", tmp_path / "configs")
    monkeypatch.setattr(model_zoo, "FOLDERS", folders)
    assert ohem_d2.get_config_file("a.yaml") == str(folders[0] / "a.yaml")
