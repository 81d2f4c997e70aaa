"""The proposals of a trained RPN over a data set."""

import pickle
from collections.abc import Iterator, Sequence

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetMapper, build_detection_test_loader
from detectron2.modeling import build_model
from detectron2.modeling.proposal_generator import RPN
from torch import nn

from ohem_d2.tools.load_model import find_config_file

from ..experiment import add_paper_config, import_networks

PARTS = ("backbone", "proposal_generator")


def rpn_config(config_file: str, weights: str, opts: Sequence[str] = ()) -> CfgNode:
    """
    Args:
        config_file: a file, or the name of one in Detectron2's model zoo.
        weights: in place of the file's MODEL.WEIGHTS; "" leaves these.
        opts: KEY, VALUE, KEY, VALUE...

    Raises:
        FileNotFoundError, ValueError
    """
    try:
        config_file = find_config_file(config_file)
    except FileNotFoundError as e:
        raise FileNotFoundError(f"--config-file {e}") from None
    cfg = get_cfg()
    add_paper_config(cfg)
    if not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    cfg.merge_from_file(config_file)
    try:
        cfg.merge_from_list(list(opts))
    except (AssertionError, KeyError, ValueError) as e:
        raise ValueError(f"--opts: {e}") from e
    import_networks(cfg)
    if weights:
        cfg.MODEL.WEIGHTS = weights
    if not cfg.MODEL.WEIGHTS:
        raise ValueError(f"{config_file} has no MODEL.WEIGHTS; give --weights")
    return cfg


class _Checkpointer(DetectionCheckpointer):
    """Refuses files without the RPN, which Detectron2 would leave random with a warning."""

    def _load_model(self, checkpoint: dict) -> object:
        incompatible = super()._load_model(checkpoint)
        shapes = [key for key, *_ in incompatible.incorrect_shapes]
        if lacks := [k for k in (*incompatible.missing_keys, *shapes) if k.startswith(PARTS)]:
            raise ValueError(
                f"the checkpoint lacks {len(lacks)} tensors of the configuration's RPN and "
                f"backbone, or has them in another shape, such as {sorted(lacks)[0]}"
            )
        return incompatible


def load_rpn(cfg: CfgNode) -> nn.Module:
    """
    Backbone and RPN of a detector as they are in MODEL.WEIGHTS, to be evaluated.

    Raises:
        FileNotFoundError, ValueError: the configuration has no RPN, or the file does not fit.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.META_ARCHITECTURE = "ProposalNetwork"  # the detector without its RoI heads
    model = build_model(cfg).eval()
    if not isinstance(model.proposal_generator, RPN):
        raise ValueError(
            "The configuration has no RPN; its proposals are precomputed or it has none"
        )
    try:
        _Checkpointer(model).load(cfg.MODEL.WEIGHTS)
    except AssertionError:
        raise FileNotFoundError(f"{cfg.MODEL.WEIGHTS} does not exist") from None
    except (OSError, ValueError, RuntimeError, EOFError, pickle.UnpicklingError) as e:
        raise ValueError(f"{cfg.MODEL.WEIGHTS}: {e}") from e
    return model


@torch.no_grad()
def propose_data_set(
    model: nn.Module, cfg: CfgNode, records: Sequence[dict]
) -> Iterator[tuple[dict, torch.Tensor, torch.Tensor]]:
    """
    Args:
        model: of :func:`load_rpn`.
        cfg: its configuration; images are resized as it does in tests.
        records: of a data set in Detectron2's format.

    Yields:
        each record with its proposals, XYXY in pixels of the image on disk, float (n, 4), and
        their objectness logits, float (n,), decreasing.
    """
    loader = build_detection_test_loader(
        list(records), mapper=DatasetMapper(cfg, is_train=False), num_workers=0
    )
    for record, inputs in zip(records, loader):
        found = model(inputs)[0]["proposals"]
        yield record, found.proposal_boxes.tensor, found.objectness_logits
