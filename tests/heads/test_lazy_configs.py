"""
Every Python configuration of the project builds what the YAML beside it does. That one trains from
a script is in test_other_scripts.py.
"""

import pytest
import torch
from detectron2.config import LazyCall, LazyConfig, get_cfg, instantiate
from detectron2.modeling import build_model
from models import ROOT
from test_configs import load

from ohem_d2 import CrowdDatasetMapper, OHEMMixin, OHEMROIHeads, OHEMSettings
from ohem_d2.monitor.pictures import MiningPictures

CONFIGS = sorted(
    path.relative_to(ROOT / "configs").as_posix() for path in (ROOT / "configs").rglob("*.py")
)


def plain_attributes(module):
    """Numbers, strings and the like of a module and its parts, by name."""
    kinds = (bool, int, float, str, tuple, OHEMSettings)
    return {
        f"{name}.{key}": value
        for name, part in module.named_modules()
        for key, value in vars(part).items()
        if isinstance(value, kinds)
    }


def test_the_common_models_have_one():
    assert len(CONFIGS) >= 5


@pytest.mark.parametrize("name", CONFIGS)
def test_builds_the_model_of_the_yaml(name):
    lazy = LazyConfig.load(str(ROOT / "configs" / name))
    cfg = load((ROOT / "configs" / name).with_suffix(".yaml"))
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model, by_yaml = instantiate(lazy.model), build_model(cfg)
    ours, theirs = model.state_dict(), by_yaml.state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}
    frozen = [{n for n, p in m.named_parameters() if not p.requires_grad} for m in (model, by_yaml)]
    assert frozen[0] == frozen[1]
    assert isinstance(model.roi_heads, OHEMMixin) and type(model) is type(by_yaml)
    assert type(model.roi_heads) is type(by_yaml.roi_heads)
    heads = plain_attributes(model.roi_heads), plain_attributes(by_yaml.roi_heads)
    different = {k for k in heads[1] if heads[0].get(k) != heads[1][k]}
    assert {k: (heads[0].get(k), heads[1][k]) for k in different} == {}
    assert model.proposal_generator.post_nms_topk == by_yaml.proposal_generator.post_nms_topk
    assert lazy.train.init_checkpoint == cfg.MODEL.WEIGHTS
    assert lazy.train.max_iter == cfg.SOLVER.MAX_ITER
    assert isinstance(instantiate(lazy.dataloader.train.mapper), CrowdDatasetMapper)


def heads(**settings):
    lazy = LazyConfig.load(str(ROOT / "configs/COCO-Detection/faster_rcnn_R_50_FPN_1x.py"))
    lazy.model.roi_heads.update(settings)
    lazy.model.roi_heads.box_head.fc_dims = [16, 1024]
    return lazy.model.roi_heads


def test_settings_are_a_dict_or_an_object():
    expected = OHEMSettings(nms_thresh=0.5, budget="quota")
    for ohem in (dict(nms_thresh=0.5, budget="quota"), expected):
        assert instantiate(heads(ohem=ohem)).ohem == expected
    node = heads()
    LazyConfig.apply_overrides(node, ["ohem.nms_thresh=0.5", "ohem.warmup_iters=0"])
    assert instantiate(node).ohem == OHEMSettings(nms_thresh=0.5)
    node.pop("ohem")
    assert instantiate(node).ohem == OHEMSettings()


def test_wrong_settings_are_told():
    with pytest.raises(KeyError, match="NMS_TRESH = 0.5 .* did you mean NMS_THRESH"):
        instantiate(heads(ohem=dict(nms_tresh=0.5)))
    with pytest.raises(ValueError, match="NMS_THRESH = 2.0; allowed"):
        instantiate(heads(ohem=dict(nms_thresh=2.0)))


def test_a_config_of_detectron2_becomes_ohems_by_an_override():
    from detectron2 import model_zoo

    lazy = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py")
    LazyConfig.apply_overrides(
        lazy,
        ["model.roi_heads._target_=ohem_d2.OHEMROIHeads", "model.roi_heads.ohem.nms_thresh=0.6"],
    )
    roi_heads = instantiate(lazy.model.roi_heads)
    assert type(roi_heads) is OHEMROIHeads and roi_heads.ohem.nms_thresh == 0.6


def test_saved_and_loaded(tmp_path):
    """As default_setup saves it into the output folder."""
    lazy = LazyConfig.load(str(ROOT / "configs/COCO-Detection/faster_rcnn_R_50_C4_1x.py"))
    LazyConfig.save(lazy, str(tmp_path / "config.yaml"))
    again = instantiate(LazyConfig.load(str(tmp_path / "config.yaml")).model.roi_heads)
    assert again.ohem == OHEMSettings(warmup_iters=1000)


def test_pictures_of_the_mining():
    """With the same arguments as VIS_PERIOD gives them."""
    cfg = get_cfg()
    cfg.VIS_PERIOD = 3
    expected = dict(vars(MiningPictures.from_cfg(cfg)))
    model = LazyConfig.load(str(ROOT / "configs/COCO-Detection/faster_rcnn_R_50_FPN_1x.py")).model
    watcher = LazyCall(MiningPictures)(
        period=3,
        pixel_mean=model.pixel_mean,
        pixel_std=model.pixel_std,
        input_format=model.input_format,
    )
    found = dict(vars(instantiate(heads(watcher=watcher)).watcher))
    for attributes in (found, expected):
        for name in ("_mean", "_std"):
            attributes[name] = attributes[name].tolist()
    assert found == expected
