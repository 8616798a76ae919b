"""Triplets of crops with several labels each, and their loss. The one module that imports pytorch-metric-learning."""

from typing import Final

import torch
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import TripletMarginLoss
from torch import Tensor

from classify.config import ClassifySection, Mining

Triplets = tuple[Tensor, Tensor, Tensor]
_DISTANCE: Final = LpDistance()  # Euclidean on the unit sphere, as the loss has it


def label_pairs(targets: Tensor, jaccard: float) -> tuple[Tensor, Tensor]:
    """Tell which crops of a batch are alike and which have nothing in common, by their sets of labels.

    Pairs between the two are neither. A crop with the empty target is never an anchor or a positive, but a negative of
    every crop that has a label. Only classes that are known of both crops count; where one carries a class of which
    nothing is known in the other, the two may have it in common and are no negatives.

    Parameters
    ----------
    targets
        Shape (N, K), 0 or 1, NaN where nothing is known.
    jaccard
        Least overlap of a positive, in (0, 1].

    Returns
    -------
    positive, negative
        Boolean, shape (N, N); row i has those of anchor i.
    """
    known = (~targets.float().isnan()).float()
    hot = targets.float().nan_to_num()
    common = hot @ hot.T
    sizes = hot @ known.T  # in row i and column j how many classes i carries that are known of j
    union = sizes + sizes.T - common
    open_to = hot @ (1 - known).T > 0
    # Counts below 2^24 are exact in float32, so comparing products avoids the rounding of a quotient.
    positive = (common > 0) & (common >= jaccard * union)
    positive.fill_diagonal_(False)
    return positive, (common == 0) & (sizes > 0) & ~(open_to | open_to.T)


def antibody_pairs(antibodies: Tensor) -> Tensor:
    """Tell which crops are of one known antibody; -1 is unknown. Boolean, shape (N, N)."""
    positive = (antibodies[:, None] == antibodies[None, :]) & (antibodies[:, None] >= 0)
    positive.fill_diagonal_(False)
    return positive


def multi_label_triplets(targets: Tensor, jaccard: float) -> Triplets:
    """Find every (anchor, positive, negative) of a batch whose crops carry sets of labels.

    Returns
    -------
    tuple of Tensor
        Anchors, positives and negatives: int64 indices into the batch, of one length (maybe 0), sorted.
    """
    return all_triplets(*label_pairs(targets, jaccard))


def all_triplets(positive: Tensor, negative: Tensor) -> Triplets:
    """Combine every positive of an anchor with every negative, both boolean of shape (N, N)."""
    anchors, positives, negatives = torch.nonzero(positive[:, :, None] & negative[:, None, :], as_tuple=True)
    return anchors, positives, negatives


def mine(embeddings: Tensor, positive: Tensor, negative: Tensor, mining: Mining, margin: float) -> Triplets:
    """Choose triplets.

    Parameters
    ----------
    embeddings
        Shape (N, D), rows of unit length.
    positive, negative
        Boolean, shape (N, N).
    mining
        ``"all"``; ``"semi-hard"``, where the negative is farther than the positive, but by less than `margin`
        (Schroff et al. 2015); ``"batch-hard"``, each anchor's farthest positive and nearest negative (Hermans et al.
        2017, https://arxiv.org/abs/1703.07737).
    margin
        By which negatives must be farther.
    """
    if mining == "all":
        return all_triplets(positive, negative)
    with torch.no_grad():
        distances: Tensor = _DISTANCE(embeddings.float())
    if mining == "semi-hard":
        anchors, positives, negatives = all_triplets(positive, negative)
        gap = distances[anchors, negatives] - distances[anchors, positives]
        kept = (gap > 0) & (gap < margin)
        return anchors[kept], positives[kept], negatives[kept]
    farthest = distances.masked_fill(~positive, -1.0).argmax(1)
    nearest = distances.masked_fill(~negative, torch.inf).argmin(1)
    anchors = torch.nonzero(positive.any(1) & negative.any(1))[:, 0]
    return anchors, farthest[anchors], nearest[anchors]


def triplet_loss(embeddings: Tensor, targets: Tensor, antibodies: Tensor, section: ClassifySection) -> Tensor:
    """Triplet margin loss over the mined triplets of a batch that still violate the margin.

    ``mean(max(0, |a - p| - |a - n| + margin))`` over the triplets where it is positive (Schroff et al. 2015,
    https://arxiv.org/abs/1503.03832; averaging over the active ones keeps the gradient from fading).

    Parameters
    ----------
    embeddings
        Shape (N, D), float32, of unit length.
    targets
        Shape (N, K), 0 or 1, NaN where nothing is known.
    antibodies
        Shape (N,), -1 where unknown.
    section
        What positives are, which triplets count, the margin.

    Returns
    -------
    Tensor
        Scalar; a zero that can be differentiated where the batch has no triplet.
    """
    positive, negative = label_pairs(targets, section.triplet_jaccard)
    if section.triplet_positives == "antibody":
        positive = antibody_pairs(antibodies)
    margin = section.triplet_margin
    triplets = mine(embeddings.float(), positive, negative, section.triplet_mining, margin)
    loss: Tensor = TripletMarginLoss(margin=margin)(embeddings.float(), indices_tuple=triplets)
    return loss
