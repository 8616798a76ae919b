"""The training objective: the class loss of crops, of images, or of both, and the triplet loss beside it."""

import torch
from torch import Tensor

from classify.config import ClassifySection
from classify.data.batches import Batch
from classify.losses.classification import class_loss
from classify.losses.pooling import Bags, pad_bags, pool, pooled_logits
from classify.losses.triplets import triplet_loss
from classify.network.model import Outputs


def batch_loss(
    outputs: Outputs,
    batch: Batch,
    section: ClassifySection,
    alpha: Tensor | None = None,
    classes: Tensor | None = None,
) -> Tensor:
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
    classes
        Weight of each class in the class loss, shape (K,); None weighs all equally.

    Returns
    -------
    Tensor
        Scalar, float32.
    """
    weights = batch.weights if section.completeness_power else None
    if section.objective == "cell":
        loss = class_loss(outputs.logits, batch.targets, section, weights, classes)
    else:
        loss = bag_loss(outputs, batch, section, alpha, classes)
    if section.objective == "dual":
        loss = loss + section.cell_weight * class_loss(outputs.logits, batch.targets, section, weights, classes)
    if outputs.embeddings is None or not section.triplet_weight:
        return loss
    triplets = triplet_loss(outputs.embeddings, batch.targets, batch.antibodies, section)
    return loss + section.triplet_weight * triplets


def bag_loss(
    outputs: Outputs,
    batch: Batch,
    section: ClassifySection,
    alpha: Tensor | None = None,
    classes: Tensor | None = None,
) -> Tensor:
    """Compute the class loss of images, whose probabilities are pooled over their crops."""
    first = torch.searchsorted(batch.bags, torch.arange(int(batch.bags[-1]) + 1, device=batch.bags.device))
    pooled = pool_bags(outputs.logits, outputs.attention, batch.bags, batch.weights, section, alpha)
    return class_loss(pooled_logits(pooled), batch.targets[first], section, classes=classes)


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
