"""The sweep of the frozen model over the data set, for its false positives."""

from collections import Counter

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, build_detection_test_loader
from detectron2.evaluation import inference_context
from detectron2.utils import comm

from ..box_branch import box_branch
from ..settings import BootstrapSettings
from .steps import find_false_positives, merge, shrink
from .working_set import WorkingSet


def score_proposals(model: torch.nn.Module, inputs: list[dict]) -> list[torch.Tensor]:
    """
    For each image, with ``proposals``, the highest score of an object class of each of them, of
    shape (R,), by a ``GeneralizedRCNN`` in evaluation mode.
    """
    images = model.preprocess_image(inputs)
    features = model.backbone(images.tensor)
    proposals = [x["proposals"].to(model.device) for x in inputs]
    predictor, predictions = box_branch(model.roi_heads, "Bootstrapping")(features, proposals)
    scores = predictor.predict_probs(predictions, proposals)
    return [part[:, :-1].amax(dim=1) for part in scores]  # background is the last


def sweep(
    cfg: CfgNode, model: torch.nn.Module, working_set: WorkingSet
) -> tuple[list[torch.Tensor], dict[str, int]]:
    """
    Run the frozen model over every image at the size for tests, with all its proposals; several
    processes share the images. The model and ``working_set`` stay as they are.

    Returns:
        the indices of the next working set; and how many ``num_false_positives`` there are in the
        data set, ``num_added`` and ``num_dropped`` RoIs.
    """
    settings = BootstrapSettings.from_cfg(cfg)
    topk = cfg.DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN
    loader = build_detection_test_loader(
        [{**record, "place": i} for i, record in enumerate(working_set.records)],
        mapper=DatasetMapper(cfg, is_train=False, precomputed_proposal_topk=topk),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )
    swept, counts = {}, Counter()
    with inference_context(model), torch.no_grad():
        for inputs in loader:
            for x, scores in zip(inputs, score_proposals(model, inputs)):
                place, scores = x["place"], scores.cpu()
                before, labels = working_set.indices[place], working_set.labels[place]
                found = find_false_positives(scores, labels, settings.score_thresh)
                kept = shrink(before, scores, labels, settings.keep_thresh)
                swept[place] = merge(kept, found, settings.max_per_image)
                counts["num_false_positives"] += len(found)
                counts["num_added"] += len(swept[place]) - len(kept)
                counts["num_dropped"] += len(before) - len(kept)
    totals = Counter()
    for part, numbers in comm.all_gather((swept, counts)):
        swept.update(part)
        totals.update(numbers)
    return [swept[place] for place in range(len(working_set.records))], dict(totals)
