"""The training objective: the class loss of crops, of images, or of both, and the triplet loss beside it."""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torchvision.ops import sigmoid_focal_loss

from classify.config import ClassifySection
from classify.data.batches import Batch
from classify.losses.pooling import Bags, pad_bags, pool, pooled_logits
from classify.losses.triplets import triplet_loss
from classify.network.model import Outputs


def batch_loss(outputs: Outputs, batch: Batch, section: ClassifySection, alpha: Tensor | None = None) -> Tensor:
    """Compute the class loss of a batch, plus the weighted triplet loss if the network has an embedding.

    Parameters
    ----------
    outputs
        Output of the network for the N crops of the batch.
    batch
        The crops, with the labels that they inherit from their images.
    section
        Recipe section: weights and parameters of the losses.
    alpha
        The network's sharpness of each class, shape (K,), for the pooling ``auto``.

    Returns
    -------
    Tensor
        Scalar, float32.
    """
    weights = batch.weights if section.completeness_power else None
    if section.objective == "cell":
        loss = class_loss(outputs.logits, batch.targets, section, weights)
    else:
        loss = bag_loss(outputs, batch, section, alpha)
    if section.objective == "dual":
        loss = loss + section.cell_weight * class_loss(outputs.logits, batch.targets, section, weights)
    if outputs.embeddings is None:
        return loss
    triplets = triplet_loss(outputs.embeddings, batch.targets, batch.antibodies, section)
    return loss + section.triplet_weight * triplets


def bag_loss(outputs: Outputs, batch: Batch, section: ClassifySection, alpha: Tensor | None = None) -> Tensor:
    """Compute the class loss of images, whose probabilities are pooled over their crops."""
    first = torch.searchsorted(batch.bags, torch.arange(int(batch.bags[-1]) + 1, device=batch.bags.device))
    pooled = pool_bags(outputs.logits, outputs.attention, batch.bags, batch.weights, section, alpha)
    return class_loss(pooled_logits(pooled), batch.targets[first], section)


def pool_bags(
    logits: Tensor,
    attention: Tensor | None,
    bags: Tensor,
    weights: Tensor,
    section: ClassifySection,
    alpha: Tensor | None = None,
) -> Tensor:
    """Pool the crops of each bag by the recipe's formula.

    Parameters
    ----------
    logits, attention
        Output for N crops, shape (N, K), and (N,) or None.
    bags
        Number of the bag of each crop, shape (N,), rising from 0 by at most 1.
    weights
        Weight of each crop, shape (N,).
    section
        Recipe section.
    alpha
        Sharpness of each class, shape (K,), for the pooling ``auto``.

    Returns
    -------
    Tensor
        Probabilities of the bags, shape (B, K).
    """
    probabilities, _ = pad_bags(torch.sigmoid(logits.float()), bags)
    padded_weights, _ = pad_bags(weights, bags)
    scores = None if attention is None else pad_bags(attention, bags)[0]
    return pool(Bags(probabilities, padded_weights, scores, alpha), section)


def class_loss(logits: Tensor, targets: Tensor, section: ClassifySection, weights: Tensor | None = None) -> Tensor:
    """Compute the recipe's class loss, averaged over classes and rows.

    Parameters
    ----------
    logits, targets
        Shape (N, K) each; targets are NaN where unknown, and those entries do not count.
    section
        Recipe section: choice of the loss.
    weights
        Weight of each row, shape (N,); None weighs all rows equally.

    Returns
    -------
    Tensor
        Scalar, float32.
    """
    if weights is None and section.loss == "focal":
        return focal_loss(logits, targets, section.focal_gamma, section.focal_alpha)
    hot = targets.float().nan_to_num()
    if section.loss == "focal":
        losses: Tensor = sigmoid_focal_loss(
            logits.float(), hot, alpha=section.focal_alpha, gamma=section.focal_gamma, reduction="none"
        )
    else:
        losses = binary_cross_entropy_with_logits(logits.float(), hot, reduction="none")
    counted = (~targets.isnan()).float() if weights is None else weights[:, None] * ~targets.isnan()
    return (counted * losses).sum() / counted.sum().clamp(min=torch.finfo(counted.dtype).tiny)


def focal_loss(logits: Tensor, targets: Tensor, gamma: float, alpha: float = -1.0) -> Tensor:
    """Compute the focal loss of independent classes (Lin et al. 2017, https://arxiv.org/abs/1708.02002).

    ``-a (1 - q)^gamma log q`` with q the probability of the true state, averaged over crops and classes.

    Parameters
    ----------
    logits
        Shape (N, K), any floating type; computed in float32, since a half-precision sigmoid saturates.
    targets
        Shape (N, K), 0 or 1, NaN where unknown; those entries do not count.
    gamma
        Focusing exponent; 0 gives binary cross-entropy.
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
    losses = sigmoid_focal_loss(logits.float(), targets.nan_to_num(), alpha=alpha, gamma=gamma, reduction="none")
    loss = (losses * known).sum() / known.sum().clamp(min=1)
    return loss
