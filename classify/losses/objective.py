"""What training makes small: the losses of a batch put together as the recipe says."""

import torch
from torch import Tensor

from classify.config import ClassifySection
from classify.data.crops import Batch
from classify.losses.classification import class_loss
from classify.losses.pooling import Bags, pad, pool, pooled_logits
from classify.losses.triplets import triplet_loss
from classify.network.model import Outputs


def batch_loss(outputs: Outputs, batch: Batch, section: ClassifySection, alpha: Tensor | None = None) -> Tensor:
    """Return the class loss of a batch, and the weighted triplet loss if the network has an embedding.

    Parameters
    ----------
    outputs
        Of the network, for the N crops of the batch.
    batch
        The crops, with the labels that they inherit from their images, NaN where nothing is known.
    section
        Weights and parameters of the losses.
    alpha
        The network's, for the pooling ``auto``.
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
    """Return the class loss of images, whose probabilities are pooled over their crops."""
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
    """Pool the crops of each bag as the recipe says.

    Parameters
    ----------
    logits, attention
        Of N crops, shape (N, K), and (N,) or None.
    bags
        Number of the bag of each crop, shape (N,), rising from 0 by at most 1.
    weights
        How much each crop counts, shape (N,).
    section
        How.
    alpha
        Sharpness of each class, shape (K,), for the pooling ``auto``.

    Returns
    -------
    Tensor
        Probabilities of shape (B, K).
    """
    padded, _ = pad(torch.sigmoid(logits.float()), bags)
    counted, _ = pad(weights, bags)
    scores = None if attention is None else pad(attention, bags)[0]
    return pool(Bags(padded, counted, scores, alpha), section)
