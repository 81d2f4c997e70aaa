"""
Fast R-CNN's heuristic for hard background (paper Sec. 3.1): RoIs with an IoU below ``bg_lo`` with
all objects are neither foreground nor background. OHEM does without it.
"""

from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.roi_heads import StandardROIHeads

from ohem_d2 import OHEMROIHeads
from ohem_d2.tools.errors import InputError


def add_bg_lo_config(cfg: CfgNode) -> None:
    """Add the key ``MODEL.ROI_HEADS.BG_LO`` with its default, in place."""
    # The lowest IoU with an object at which a RoI is background; heads without "BgLo" in their name
    # do not read it. 0: all RoIs below IOU_THRESHOLDS are.
    cfg.MODEL.ROI_HEADS.BG_LO = 0.1


class BgLoMixin:
    """
    Heads whose background begins at BG_LO: list it first among the bases. An image without objects
    keeps all of its background, as Detectron2 matches nothing there; Fast R-CNN leaves such images
    out, see DATALOADER.FILTER_EMPTY_ANNOTATIONS.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode, *args: Any) -> dict[str, Any]:
        """Raises InputError unless BG_LO is below the one threshold of foreground."""
        ret, heads = super().from_config(cfg, *args), cfg.MODEL.ROI_HEADS
        low, thresholds, labels = heads.BG_LO, heads.IOU_THRESHOLDS, heads.IOU_LABELS
        if list(labels) != [0, 1] or not 0 <= low < thresholds[0]:
            values = f"{low!r} with IOU_THRESHOLDS {thresholds!r} and IOU_LABELS {labels!r}"
            allowed = "from 0 to below the one threshold, and labels [0, 1]"
            raise InputError(f"MODEL.ROI_HEADS.BG_LO = {values}; allowed: {allowed}")
        if low > 0:
            ret["proposal_matcher"] = Matcher([low, *thresholds], [-1, 0, 1])
        return ret


@ROI_HEADS_REGISTRY.register()
class BgLoROIHeads(BgLoMixin, StandardROIHeads):
    """Fast R-CNN's sampler: at random, with a share of foreground."""


@ROI_HEADS_REGISTRY.register()
class OHEMBgLoROIHeads(BgLoMixin, OHEMROIHeads):
    """OHEM among the RoIs that Fast R-CNN samples from."""
