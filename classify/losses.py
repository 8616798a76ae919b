"""What a classifier is trained to make small."""

from torch import Tensor
from torchvision.ops import sigmoid_focal_loss


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
