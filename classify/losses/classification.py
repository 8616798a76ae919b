"""What a classifier is trained to make small."""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torchvision.ops import sigmoid_focal_loss

from classify.config import ClassifySection


def focal_loss(logits: Tensor, targets: Tensor, gamma: float, alpha: float = -1.0) -> Tensor:
    """Focal loss of independent classes (Lin et al. 2017, https://arxiv.org/abs/1708.02002).

    ``-a (1 - q)^gamma log q`` with q the probability given to what is true, averaged over crops and classes.

    Parameters
    ----------
    logits
        Shape (N, K), any floating type; computed in float32, since a half-precision sigmoid saturates.
    targets
        Shape (N, K), 0 or 1; NaN where nothing is known, which does not count.
    gamma
        Focusing exponent; 0 leaves binary cross-entropy.
    alpha
        Weight of positives, with ``1 - alpha`` for negatives; -1 weighs both 1. torchvision's own default
        of 0.25 would weigh the rare positives *down*.

    Returns
    -------
    Tensor
        Scalar, float32.
    """
    targets = targets.float()
    known = ~targets.isnan()
    loss: Tensor
    if known.all():
        loss = sigmoid_focal_loss(logits.float(), targets, alpha=alpha, gamma=gamma, reduction="mean")
        return loss
    each = sigmoid_focal_loss(logits.float(), targets.nan_to_num(), alpha=alpha, gamma=gamma, reduction="none")
    loss = (each * known).sum() / known.sum().clamp(min=1)
    return loss


def class_loss(logits: Tensor, targets: Tensor, section: ClassifySection, weights: Tensor | None = None) -> Tensor:
    """Return the recipe's class loss, averaged over classes and rows.

    Parameters
    ----------
    logits, targets
        Shape (N, K) each; targets are NaN where nothing is known, which does not count.
    section
        Which loss.
    weights
        How much each row counts, shape (N,); all alike if None.
    """
    if weights is None and section.loss == "focal":
        return focal_loss(logits, targets, section.focal_gamma, section.focal_alpha)
    hot = targets.float().nan_to_num()
    if section.loss == "focal":
        of_each: Tensor = sigmoid_focal_loss(
            logits.float(), hot, alpha=section.focal_alpha, gamma=section.focal_gamma, reduction="none"
        )
    else:
        of_each = binary_cross_entropy_with_logits(logits.float(), hot, reduction="none")
    counted = (~targets.isnan()).float() if weights is None else weights[:, None] * ~targets.isnan()
    return (counted * of_each).sum() / counted.sum().clamp(min=torch.finfo(counted.dtype).tiny)
