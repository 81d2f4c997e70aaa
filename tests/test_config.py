import math

import pytest
from detectron2.config import get_cfg
from models import config, detector

from ohem_d2 import CannotMine, OHEMSettings, add_ohem_config

DEFAULTS = {
    "RANK_CLS_WEIGHT": 1.0,
    "RANK_LOC_WEIGHT": 1.0,
    "NMS_THRESH": 0.7,
    "NMS_SCOPE": "class",
    "BUDGET": "image",
    "CHUNK_SIZE": 0,
    "READONLY_DROPOUT": True,
    "READONLY_PRECISION": "",
    "SCREENING": 0.0,
    "WARMUP_ITERS": 0,
    "CASCADE_STAGES": "first",
    "IGNORE_IOA_THRESH": 0.5,
    "VERIFY": True,
}


def test_keys_and_defaults():
    cfg = get_cfg()
    before = cfg.dump()
    add_ohem_config(cfg)
    assert dict(cfg.MODEL.ROI_HEADS.OHEM) == DEFAULTS
    del cfg.MODEL.ROI_HEADS["OHEM"]
    assert cfg.dump() == before


def test_keys_that_are_there_stay():
    cfg = get_cfg()
    add_ohem_config(cfg)
    cfg.MODEL.ROI_HEADS.OHEM.NMS_THRESH = 0.5
    before = cfg.dump()
    add_ohem_config(cfg)
    assert cfg.dump() == before


def test_a_config_without_the_node_means_defaults():
    assert OHEMSettings.from_cfg(get_cfg()) == OHEMSettings()


def test_settings_from_a_dict():
    expected = OHEMSettings(nms_thresh=0.4, budget="quota")
    assert OHEMSettings.from_dict({"nms_thresh": 0.4, "BUDGET": "quota"}) == expected
    with pytest.raises(KeyError, match="NMS_TRESH = 0.5 .* did you mean NMS_THRESH"):
        OHEMSettings.from_dict({"nms_tresh": 0.5})


def test_a_head_gets_what_the_config_says():
    model = detector(config("fpn", ohem={"nms_thresh": 0.4, "budget": "quota"}))
    assert model.roi_heads.ohem == OHEMSettings(nms_thresh=0.4, budget="quota")


@pytest.mark.parametrize(
    "settings, allowed",
    [
        ({"RANK_LOC_WEIGHT": -0.1}, ">= 0"),
        ({"RANK_CLS_WEIGHT": math.nan}, ">= 0"),
        ({"RANK_CLS_WEIGHT": math.inf}, ">= 0"),
        ({"RANK_CLS_WEIGHT": 0, "RANK_LOC_WEIGHT": 0}, "above 0"),
        ({"NMS_THRESH": -0.5}, "from 0 to 1"),
        ({"NMS_THRESH": "0.5"}, "from 0 to 1"),
        ({"NMS_SCOPE": "klass"}, "'class' or 'agnostic' or 'none'"),
        ({"NMS_THRESH": 0.5, "NMS_SCOPE": "none"}, "no NMS would read it"),
        ({"BUDGET": "epoch"}, "'image' or 'quota'"),
        ({"CHUNK_SIZE": -1}, "whole number >= 0"),
        ({"READONLY_DROPOUT": 1}, "True or False"),
        ({"READONLY_PRECISION": "half"}, "'' or 'bfloat16' or 'float16'"),
        ({"SCREENING": 0.5}, "0 or a number >= 1"),
        ({"SCREENING": 2.0, "BUDGET": "quota"}, "0 unless BUDGET is 'image'"),
        ({"SCREENING": 2.0, "CASCADE_STAGES": "all"}, "CASCADE_STAGES 'first'"),
        ({"WARMUP_ITERS": True}, "whole number"),
        ({"WARMUP_ITERS": 90000}, "below SOLVER.MAX_ITER, which is 90000"),
        ({"CASCADE_STAGES": "last"}, "'first' or 'all'"),
        ({"IGNORE_IOA_THRESH": 0}, "above 0"),
        ({"VERIFY": "yes"}, "True or False"),
    ],
)
def test_impossible_values_name_key_value_and_what_is_allowed(settings, allowed):
    cfg = config("fpn")
    cfg.MODEL.ROI_HEADS.OHEM.update(settings)
    with pytest.raises(ValueError) as error:
        detector(cfg)
    key, value = next(iter(settings.items()))
    assert f"MODEL.ROI_HEADS.OHEM.{key} = {value!r}" in str(error.value)
    assert allowed in str(error.value)


def test_all_stages_of_what_is_no_cascade():
    with pytest.raises(CannotMine, match="CASCADE_STAGES = 'all' needs a cascade.*'first'"):
        detector(config("fpn", ohem={"cascade_stages": "all"}))


REMOVED = {
    "MAX_NEG_PER_POS": (-1, 3, "RANK_LOC_WEIGHT"),
    "MIN_NEG_PER_IMAGE": (0, 8, "RANK_LOC_WEIGHT"),
    "MAX_FG_FRACTION": (1.0, 0.25, "POSITIVE_FRACTION"),
    "BG_IOU_LOW": (0.0, 0.1, "projects/paper"),
    "MAX_CANDIDATES": (0, 1000, "POST_NMS_TOPK_TRAIN"),
    "IMPLEMENTATION": ("readonly", "loss_layer", "projects/paper"),
}


@pytest.mark.parametrize("key", REMOVED)
def test_removed_keys(key):
    """Files that Detectron2 dumped have the old default; another value is told what to do."""
    default, other, remedy = REMOVED[key]
    cfg = config()
    cfg.MODEL.ROI_HEADS.OHEM[key] = default
    assert OHEMSettings.from_cfg(cfg) == OHEMSettings()
    cfg.MODEL.ROI_HEADS.OHEM[key] = other
    with pytest.raises(KeyError, match=f"{key} = {other!r}: this key was removed; .*{remedy}"):
        detector(cfg)


def test_a_removed_value():
    with pytest.raises(ValueError, match="BUDGET = 'batch'; allowed: 'image' or 'quota'"):
        detector(config(ohem={"budget": "batch"}))


def test_a_budget_may_be_a_function():
    def all_of_them(losses, is_foreground, image_index, num_images, num_samples):
        return losses > -1

    assert OHEMSettings(budget=all_of_them).budget is all_of_them
    assert OHEMSettings.from_dict({"budget": all_of_them}).budget is all_of_them


def test_a_node_that_is_no_node_is_told_so():
    cfg = config()
    cfg.MODEL.ROI_HEADS.OHEM = True
    with pytest.raises(ValueError, match="OHEM = True; it is a node .* MODEL.ROI_HEADS.NAME"):
        detector(cfg)


def test_a_budget_of_zero():
    with pytest.raises(ValueError, match="MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 0,"):
        detector(config("fpn", budget=0))


def test_unknown_key_is_named_with_the_one_that_was_meant():
    cfg = config("fpn")
    cfg.MODEL.ROI_HEADS.OHEM.NMS_TRESH = 0.5
    with pytest.raises(KeyError, match="NMS_TRESH = 0.5 .* did you mean NMS_THRESH"):
        detector(cfg)


@pytest.mark.parametrize("key", DEFAULTS)
def test_keys_are_set_from_the_command_line(key):
    cfg = get_cfg()
    add_ohem_config(cfg)
    other = {bool: not DEFAULTS[key], str: "other", int: 7, float: 0.125}[type(DEFAULTS[key])]
    cfg.merge_from_list([f"MODEL.ROI_HEADS.OHEM.{key}", str(other)])
    assert dict(cfg.MODEL.ROI_HEADS.OHEM) == {**DEFAULTS, key: other}


def test_a_misspelt_key_in_a_file_or_on_the_command_line(tmp_path):
    (tmp_path / "typo.yaml").write_text("MODEL: {ROI_HEADS: {OHEM: {NMS_TRESH: 0.5}}}")
    cfg = config("fpn")
    cfg.merge_from_file(str(tmp_path / "typo.yaml"))
    with pytest.raises(KeyError, match="NMS_TRESH = 0.5 .* did you mean NMS_THRESH"):
        detector(cfg)
    cfg = get_cfg()
    add_ohem_config(cfg)
    with pytest.raises((KeyError, AssertionError), match="MODEL.ROI_HEADS.OHEM.NMS_TRESH"):
        cfg.merge_from_list(["MODEL.ROI_HEADS.OHEM.NMS_TRESH", "0.5"])
