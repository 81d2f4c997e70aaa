"""
Which RoIs are hard: NMS by loss, then the highest losses. Pure functions on tensors.

Shape shorthand: R candidate RoIs over all N images.
"""

import itertools
from collections.abc import Callable, Sequence

import torch
from torch.profiler import record_function
from torchvision.ops import box_iou, nms

BatchedNMS = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float], torch.Tensor]


def select_hard_examples(
    losses: torch.Tensor,
    boxes: torch.Tensor,
    gt_classes: torch.Tensor,
    num_samples: int,
    *,
    nms_thresh: float = 0.7,
    nms_scope: str = "class",
) -> torch.Tensor:
    """
    The hard examples of one image (paper Sec. 4.2): go through the RoIs from the highest loss
    down, drop those that overlap a harder one, stop at ``num_samples``.

    Overlapping RoIs have correlated losses, as they can project onto the same feature cells;
    without the NMS one hard place would be counted many times.

    Args:
        losses: of shape (R,). NaN and infinity are the hardest; equal losses keep their order.
        boxes: of shape (R, 4), absolute XYXY pixels.
        gt_classes: int64 of shape (R,), the label of each RoI. Labels below 0 mean "ignore": such
            RoIs are never chosen.
        num_samples: B/N of the paper.
        nms_thresh: a RoI is dropped if its IoU with a harder one is above this. Areas have no +1
            pixel, as everywhere in Detectron2.
        nms_scope: "class": only RoIs of the same label suppress each other (the authors' release);
            "agnostic": all do; "none": no NMS.

    Returns:
        int64 indices into the R RoIs, hardest first; fewer than ``num_samples`` if fewer are left.

    Raises:
        ValueError: for a scope that is none of these, or a negative ``num_samples``.
    """
    if num_samples < 0:
        raise ValueError(f"num_samples = {num_samples!r}; allowed: a whole number >= 0")
    candidates = torch.nonzero(gt_classes >= 0).squeeze(1)
    _, hard = hardest(
        losses[candidates],
        boxes[candidates],
        gt_classes[candidates],
        torch.zeros_like(candidates),
        num_images=1,
        num_samples=num_samples,
        nms_thresh=nms_thresh,
        nms_scope=nms_scope,
    )
    return candidates[hard]


def hardest(
    losses: torch.Tensor,
    boxes: torch.Tensor,
    gt_classes: torch.Tensor,
    image_index: torch.Tensor,
    *,
    num_images: int,
    num_samples: int,
    nms_thresh: float,
    nms_scope: str,
    budget: str = "image",
    batched_nms: BatchedNMS | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The hard examples of all images: :func:`nms_by_loss`, then :func:`cut_to_budget`, which say what
    the arguments are.

    Returns:
        int64 indices into the R RoIs, hardest first: the survivors of the NMS, and the chosen ones.
    """
    with record_function("ohem/nms"):
        survivors = nms_by_loss(
            losses,
            boxes,
            gt_classes,
            image_index,
            nms_thresh=nms_thresh,
            nms_scope=nms_scope,
            batched_nms=batched_nms,
        )
    with record_function("ohem/cut"):
        kept = cut_to_budget(image_index[survivors], num_images, num_samples, budget=budget)
        return survivors, survivors[kept]


def order_by_loss(losses: torch.Tensor) -> torch.Tensor:
    """
    Indices that sort ``losses`` (R,) from high to low. NaN and infinity of either sign come
    first; ties keep their order, so that the result is the same on every device.
    """
    ranked = torch.where(torch.isfinite(losses), losses, float("inf"))
    return torch.sort(ranked, descending=True, stable=True).indices


def nms_by_loss(
    losses: torch.Tensor,
    boxes: torch.Tensor,
    gt_classes: torch.Tensor,
    image_index: torch.Tensor,
    *,
    nms_thresh: float,
    nms_scope: str,
    batched_nms: BatchedNMS | None = None,
) -> torch.Tensor:
    """
    NMS with the loss in the place of the score, for all images and classes in one call.

    Args:
        losses, gt_classes, image_index: of shape (R,). RoIs of different images never suppress
            each other.
        boxes: of shape (R, 4), absolute XYXY pixels, or what ``batched_nms`` takes.
        nms_thresh, nms_scope: see :func:`select_hard_examples`.
        batched_nms: NMS of other boxes, with Detectron2's arguments: boxes, scores, group of each
            box, threshold.

    Returns:
        int64 indices of the survivors, hardest first.
    """
    if nms_scope not in ("class", "agnostic", "none"):
        raise ValueError(f'nms_scope = {nms_scope!r}; allowed: "class", "agnostic" or "none"')
    order = order_by_loss(losses)
    if nms_scope == "none" or len(order) == 0:
        return order
    group = _groups(gt_classes, image_index, nms_scope)
    # The ranks serve as scores: they have no ties and no NaN.
    rank = torch.arange(len(order), device=order.device, dtype=torch.float64)
    boxes, group = boxes[order], group[order]
    if batched_nms is None:
        return order[nms(_in_places_of_their_own(boxes, group), -rank, nms_thresh)]
    return order[batched_nms(boxes, -rank, group, nms_thresh)]


def suppressors(
    losses: torch.Tensor,
    boxes: torch.Tensor,
    gt_classes: torch.Tensor,
    image_index: torch.Tensor,
    *,
    nms_thresh: float,
    nms_scope: str,
) -> torch.Tensor:
    """
    Who suppresses each RoI in :func:`nms_by_loss`, to explain a choice: int64 of shape (R,), the
    index of the hardest survivor that overlaps it by more than the threshold; -1 for the survivors.
    It takes memory for S x R numbers, S being the number of survivors.
    """
    survivors = nms_by_loss(
        losses, boxes, gt_classes, image_index, nms_thresh=nms_thresh, nms_scope=nms_scope
    )
    if len(survivors) == len(losses):
        return torch.full_like(image_index, -1)
    shifted = _in_places_of_their_own(boxes, _groups(gt_classes, image_index, nms_scope))
    overlaps = box_iou(shifted[survivors], shifted) > nms_thresh
    # argmax finds the first, thus the hardest.
    culprits = survivors[overlaps.int().argmax(dim=0)]
    culprits[survivors] = -1
    return culprits


def _groups(gt_classes: torch.Tensor, image_index: torch.Tensor, nms_scope: str) -> torch.Tensor:
    """Of each RoI, (R,): only RoIs of one group suppress each other."""
    if nms_scope == "class":
        return image_index * (gt_classes.max() + 1) + gt_classes
    return image_index


def _in_places_of_their_own(boxes: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
    """
    The boxes (R, 4), each group moved to where no other group's box reaches, by a whole number of
    pixels. In float64 that changes no coordinate by rounding; in float32, with many groups, IoUs
    next to the threshold would tip over.
    """
    boxes = torch.nan_to_num(boxes.double(), nan=0.0, posinf=0.0, neginf=0.0)
    extent = torch.ceil(boxes.max() - boxes.min()) + 1
    return boxes + (group * extent)[:, None]


def cut_to_budget(
    image_index: torch.Tensor, num_images: int, num_samples: int, *, budget: str = "image"
) -> torch.Tensor:
    """
    Take the hardest RoIs that the budget allows: the ``num_samples`` first of each image.

    Args:
        image_index: int64 of shape (R,), in [0, num_images), for RoIs sorted from the hardest to
            the easiest.
        num_images: N.
        num_samples: B/N.
        budget: "image": ``num_samples`` of each image; "batch": N times as many of all together.

    Returns:
        bool of shape (R,), the chosen RoIs.
    """
    if budget == "batch":
        rank = torch.arange(len(image_index), device=image_index.device)
        return rank < num_samples * num_images
    # How many of the same image there are up to each RoI, and with it
    count = _one_hot(image_index, num_images).cumsum(dim=0)  # (R, N)
    return count.gather(1, image_index[:, None]).squeeze(1) <= num_samples


def image_of_each(sizes: Sequence[int], device: torch.device) -> torch.Tensor:
    """
    The image of each of R RoIs, int64 of shape (R,), for ``sizes`` RoIs in each image. Made of
    constants, as a list would have to be copied to the device, which waits for it.
    """
    parts = [torch.full((size,), i, device=device) for i, size in enumerate(sizes)]
    return torch.cat(parts)


def split_by_image(
    indices: torch.Tensor, image_index: torch.Tensor, sizes: Sequence[int]
) -> list[torch.Tensor]:
    """
    From int64 indices into the R RoIs of all images together to each image's part of them, in their
    order, as indices into the image's RoIs. For ``image_index`` and ``sizes`` see
    :func:`image_of_each`.
    """
    image_index = image_index[indices]
    order = torch.sort(image_index, stable=True).indices
    # One transfer from the device, whatever the number of images.
    counts = _one_hot(image_index, len(sizes)).sum(dim=0).tolist()
    starts = itertools.accumulate(sizes[:-1], initial=0)
    return [part - start for part, start in zip(indices[order].split(counts), starts)]


def _one_hot(index: torch.Tensor, num: int) -> torch.Tensor:
    """As ``torch.nn.functional.one_hot``, but without a look at the values."""
    return (index[:, None] == torch.arange(num, device=index.device)).long()
