"""What OHEMTrainer refuses: models that cannot mine, and settings that nobody would read."""

import interrupted
import pytest
from detectron2 import model_zoo
from detectron2.config import get_cfg
from models import SHRINK

from ohem_d2 import add_ohem_config
from ohem_d2.tools.errors import InputError
from ohem_d2.tools.training.trainer import OHEMTrainer

RETINANET = "COCO-Detection/retinanet_R_50_FPN_1x.yaml"
RPN = "COCO-Detection/rpn_R_50_FPN_1x.yaml"
NAME, KEY = ("ROI_HEADS.NAME", "OHEMROIHeads"), ("ROI_HEADS.OHEM.NMS_THRESH", 0.6)


def build(config_file, *pairs):
    cfg = get_cfg()
    add_ohem_config(cfg)
    cfg.merge_from_file(model_zoo.get_config_file(config_file))
    cfg.merge_from_list(SHRINK)
    for key, value in pairs:
        cfg.merge_from_list([f"MODEL.{key}", value])
    return OHEMTrainer.build_model(cfg)


@pytest.mark.parametrize("config_file, architecture", [(RETINANET, "Retina"), (RPN, "Proposal")])
@pytest.mark.parametrize("pair, named", [(NAME, "NAME = 'OHEMROIHeads'"), (KEY, "OHEM has other")])
def test_ohem_for_a_model_without_roi_heads(config_file, architecture, pair, named):
    with pytest.raises(InputError, match=f"ROI_HEADS.{named}.* '{architecture}.*no ROI heads"):
        build(config_file, pair)
    assert not hasattr(build(config_file), "roi_heads")  # it trains without OHEM's name and keys


def test_metrics_that_are_written_asynchronously(tmp_path):
    """A loss that is NaN would go unnoticed, and scalars of mining would be lost."""
    images = tmp_path / "images"
    images.mkdir()
    interrupted.write_images(images)
    trainer = interrupted.WitnessTrainer(interrupted.config(images, tmp_path / "output"))
    trainer._trainer.async_write_metrics = True
    with pytest.raises(InputError, match="async_write_metrics = True loses .*; set it to False"):
        trainer.train()
