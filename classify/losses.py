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
        Shape (N, K), 0 or 1.
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
    loss: Tensor = sigmoid_focal_loss(logits.float(), targets.float(), alpha=alpha, gamma=gamma, reduction="mean")
    return loss
