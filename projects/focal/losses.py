"""
The focal loss (Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, Sec. 3), in
logarithms: fvcore's ``sigmoid_focal_loss`` has gradients of NaN where gamma is below 1 and a
probability rounds to 1.

Shape shorthand: R RoIs over all images, K foreground classes; class K is background.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def softmax_focal_loss(
    scores: Tensor, gt_classes: Tensor, *, gamma: float, alpha: float = -1.0
) -> Tensor:
    """
    -w (1 - p)^gamma log p, p being the softmax probability of the right class.

    Args:
        scores: logits of shape (R, K + 1).
        gt_classes: int64 of shape (R,), in [0, K].
        gamma: 0 for the cross entropy.
        alpha: w of foreground; w of background is 1 - alpha. -1: w is 1.

    Returns:
        Tensor of shape (R,). It and its gradients are finite for all finite logits.

    >>> scores, gt_classes = torch.tensor([[2.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 1])
    >>> softmax_focal_loss(scores, gt_classes, gamma=2.0)  # the easy one counts for little
    tensor([0.0018, 1.6501])
    """
    scores, label = _at_least_float32(scores), gt_classes[:, None]
    others = scores.scatter(1, label, float("-inf")).logsumexp(dim=1)
    margin = scores.gather(1, label).squeeze(1) - others  # p is its sigmoid
    return _focal_loss(margin, gt_classes < scores.shape[1] - 1, gamma, alpha)


def sigmoid_focal_loss(
    scores: Tensor, targets: Tensor, *, gamma: float, alpha: float = -1.0
) -> Tensor:
    """
    The same for independent classes, p being the sigmoid probability of the right answer. Scores,
    targets (True: the class is present) and losses all have the same shape.
    """
    scores = _at_least_float32(scores)
    return _focal_loss(torch.where(targets, scores, -scores), targets, gamma, alpha)


def _focal_loss(margin: Tensor, is_foreground: Tensor, gamma: float, alpha: float) -> Tensor:
    """``margin`` is the logit of p."""
    # Keeps products in the backward pass finite.
    margin = margin.clamp(-1e30, 1e30)
    loss = -torch.exp(gamma * F.logsigmoid(-margin)) * F.logsigmoid(margin)
    return loss if alpha < 0 else torch.where(is_foreground, alpha, 1 - alpha) * loss


def _at_least_float32(scores: Tensor) -> Tensor:
    return scores.to(torch.promote_types(scores.dtype, torch.float32))
