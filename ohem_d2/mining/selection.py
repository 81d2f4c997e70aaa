"""Which RoIs are hard: NMS by loss, then the highest losses. Pure functions on tensors."""

import itertools
from collections.abc import Callable, Sequence

import torch
from detectron2.layers import batched_nms_rotated
from torch import Tensor
from torchvision.ops import nms

# Takes losses, is_foreground and image_index of S RoIs, hardest first, num_images (N) and
# num_samples (B/N). Returns a bool of shape (S,): True for RoIs that are mined.
Budget = Callable[[Tensor, Tensor, Tensor, int, int], Tensor]
GROUP_BY_GROUP = ("cpu",)  # devices where one NMS call would compare boxes across groups


def select_hard_examples(
    losses: Tensor,
    boxes: Tensor,
    gt_classes: Tensor,
    num_samples: int,
    *,
    nms_thresh: float = 0.7,
    nms_scope: str = "class",
) -> Tensor:
    """
    Select the hard examples of one image (paper Sec. 4.2): NMS drops each RoI whose IoU with a
    harder, kept one is above ``nms_thresh``, and the ``num_samples`` (B/N) highest losses remain.
    Returns int64 indices into the R RoIs, hardest first.

    Args:
        losses: of shape (R,). NaN and infinity are the hardest; equal losses keep their order.
        boxes: of shape (R, 4), absolute XYXY pixels. Areas are without +1 pixel, as in Detectron2.
        gt_classes: int64 of shape (R,). RoIs with labels below 0 ("ignore") are never chosen.
        nms_scope: "class", only RoIs of the same class suppress each other (the authors' release);
            "agnostic", all do; or "none", no NMS. Raises ValueError for other values.
    """
    if num_samples < 0:
        raise ValueError(f"num_samples = {num_samples!r}; allowed: a whole number >= 0")
    candidates = torch.nonzero(gt_classes >= 0).squeeze(1)
    rois = losses[candidates], boxes[candidates], gt_classes[candidates]
    survivors = nms_by_loss(*rois, torch.zeros_like(candidates), nms_thresh, nms_scope)
    return candidates[survivors[:num_samples]]


def order_by_loss(losses: Tensor) -> Tensor:
    """Indices that sort (R,) from high to low. NaN, infinity come first; ties keep their order."""
    losses = torch.where(torch.isfinite(losses), losses, float("inf"))
    return torch.sort(losses, descending=True, stable=True).indices


def nms_by_loss(
    losses: Tensor,
    boxes: Tensor,
    gt_classes: Tensor,
    image_index: Tensor,
    nms_thresh: float,
    nms_scope: str,
) -> Tensor:
    """
    NMS with the loss instead of the score, for all R RoIs of all images in one call. Returns int64
    indices of the S survivors, hardest first. ``boxes`` are absolute XYXY pixels, (R, 4), or
    rotated, (R, 5). Rotated boxes need Detectron2's compiled ops.
    """
    if nms_scope not in ("class", "agnostic", "none"):
        raise ValueError(f"nms_scope = {nms_scope!r}; allowed: 'class', 'agnostic' or 'none'")
    order = order_by_loss(losses)
    if nms_scope == "none" or len(order) == 0:
        return order
    boxes = torch.nan_to_num(boxes[order], nan=0.0, posinf=0.0, neginf=0.0)
    group = nms_groups(gt_classes, image_index, nms_scope)[order]
    # The ranks serve as scores: they have no ties and no NaN.
    scores = -torch.arange(len(order), device=order.device, dtype=torch.float64)
    if boxes.shape[1] == 5:
        # Detectron2 offsets the groups in float32. Small group numbers lose less to rounding.
        group = torch.unique(group, return_inverse=True)[1]
        return order[batched_nms_rotated(boxes, scores.to(boxes.dtype), group, nms_thresh)]
    boxes = boxes.double()  # float32 would round some IoUs across the threshold
    if boxes.device.type in GROUP_BY_GROUP:
        group, index = torch.sort(group, stable=True)
        parts = index.split(torch.unique_consecutive(group, return_counts=True)[1].tolist())
        kept = torch.cat([part[nms(boxes[part], scores[part], nms_thresh)] for part in parts])
        return order[kept.sort().values]
    return order[nms(separated(boxes, group), scores, nms_thresh)]


def nms_groups(gt_classes: Tensor, image_index: Tensor, nms_scope: str) -> Tensor:
    """The group of each RoI, (R,): only RoIs of one group suppress each other."""
    of_class = image_index * (gt_classes.max() + 1) + gt_classes
    return of_class if nms_scope == "class" else image_index


def separated(boxes: Tensor, group: Tensor) -> Tensor:
    """Float64 boxes (R, 4), with groups moved apart by whole pixels so that none overlap."""
    return boxes + group[:, None] * (torch.ceil(boxes.max() - boxes.min()) + 1)


def per_image(
    losses: Tensor, is_foreground: Tensor, image_index: Tensor, num_images: int, num_samples: int
) -> Tensor:
    """A :data:`Budget`: the ``num_samples`` hardest of each image (the paper)."""
    return _place_in_group(image_index, num_images) < num_samples


def quota(positive_fraction: float) -> Budget:
    """
    Make a :data:`Budget` (mmdetection's OHEMSampler): in each image the hardest foreground, at most
    ``positive_fraction * num_samples``, and the hardest background for the rest.
    """

    def choose(losses, is_foreground, image_index, num_images, num_samples):
        place = _place_in_group(2 * image_index + is_foreground, 2 * num_images)
        hard = is_foreground & (place < int(positive_fraction * num_samples))
        counts = image_index.new_zeros(num_images).index_add_(0, image_index, hard.long())
        return torch.where(is_foreground, hard, place < num_samples - counts[image_index])

    return choose


def image_of_each(sizes: Sequence[int], device: torch.device) -> Tensor:
    """The image index of each of R RoIs, int64 (R,), made on the device: no copy from the host."""
    return torch.cat([torch.full((size,), i, device=device) for i, size in enumerate(sizes)])


def split_by_image(indices: Tensor, image_index: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """Split indices into the R RoIs of all images by image, as indices into its own RoIs."""
    image_index = image_index[indices]
    order = torch.sort(image_index, stable=True).indices
    # One transfer from the device, whatever the number of images
    counts = _one_hot(image_index, len(sizes)).sum(dim=0).tolist()
    starts = itertools.accumulate(sizes[:-1], initial=0)
    return [part - start for part, start in zip(indices[order].split(counts), starts)]


def _place_in_group(group: Tensor, num_groups: int) -> Tensor:
    """How many RoIs of the same group come before each RoI, int64 of shape (R,)."""
    return _one_hot(group, num_groups).cumsum(dim=0).gather(1, group[:, None]).squeeze(1) - 1


def _one_hot(index: Tensor, num: int) -> Tensor:
    """Like ``torch.nn.functional.one_hot``, which reads the values and so waits for the device."""
    return (index[:, None] == torch.arange(num, device=index.device)).long()
