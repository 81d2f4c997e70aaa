"""The proposals of a trained RPN over a data set."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, build_detection_test_loader
from detectron2.modeling import build_model
from detectron2.modeling.proposal_generator import RPN
from torch import nn

from ohem_d2.tools.data.datasets import must_exist
from ohem_d2.tools.input_errors import naming
from ohem_d2.tools.load_model import find_config_file
from ohem_d2.tools.training.checkpoints import Checkpointer
from ohem_d2.tools.trust import merge_file

from ..experiment import import_networks, paper_cfg


def rpn_config(config_file: str, weights: str, opts: Sequence[str] = ()) -> CfgNode:
    """
    Of a file, or of a name in Detectron2's model zoo, with other weights unless they are "", and
    overrides KEY, VALUE, KEY, VALUE...
    """
    cfg = paper_cfg()
    if not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    with naming("--config-file"):
        merge_file(cfg, find_config_file(config_file))
    with naming("--opts"):
        cfg.merge_from_list(list(opts))
    import_networks(cfg)
    cfg.MODEL.META_ARCHITECTURE = "ProposalNetwork"  # the detector without its RoI heads
    cfg.MODEL.WEIGHTS = weights or cfg.MODEL.WEIGHTS
    if not cfg.MODEL.WEIGHTS:
        raise ValueError(f"{config_file} has no MODEL.WEIGHTS; give --weights")
    if "://" not in cfg.MODEL.WEIGHTS:
        must_exist(cfg.MODEL.WEIGHTS, "MODEL.WEIGHTS, the checkpoint")
    return cfg


class _Checkpointer(Checkpointer):
    """Refuses files without the RPN, which Detectron2 would leave random with a warning."""

    def _load_model(self, checkpoint: dict) -> object:
        incompatible = super()._load_model(checkpoint)
        shapes = [key for key, *_ in incompatible.incorrect_shapes]
        if lacks := sorted([*incompatible.missing_keys, *shapes]):
            raise ValueError(
                f"the checkpoint lacks {len(lacks)} tensors of the configuration's RPN and "
                f"backbone, or has them in another shape, such as {lacks[0]}"
            )
        return incompatible


def load_rpn(cfg: CfgNode) -> nn.Module:
    """
    Backbone and RPN of a detector, to be evaluated. Raises ValueError if the configuration, see
    :func:`rpn_config`, has no RPN, or the weights do not fit.
    """
    model = build_model(cfg).eval()
    if not isinstance(model.proposal_generator, RPN):
        raise ValueError("The configuration has no RPN; proposals are precomputed or it has none")
    with naming(cfg.MODEL.WEIGHTS):
        _Checkpointer(model).load(cfg.MODEL.WEIGHTS)
    return model


@torch.no_grad()
def propose_data_set(
    model: nn.Module, cfg: CfgNode, records: Sequence[dict]
) -> Iterator[tuple[dict, np.ndarray, np.ndarray]]:
    """
    Each record of a data set in Detectron2's format with its proposals, XYXY in pixels of the image
    on disk, float (n, 4), and their objectness logits, float (n,), decreasing. Images are resized
    as the configuration says for tests.
    """
    mapper = DatasetMapper(cfg, is_train=False)
    loader = build_detection_test_loader(list(records), mapper=mapper, num_workers=0)
    for record, inputs in zip(records, loader):
        found = model(inputs)[0]["proposals"].to("cpu")
        yield record, found.proposal_boxes.tensor.numpy(), found.objectness_logits.numpy()
