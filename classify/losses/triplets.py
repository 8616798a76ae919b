"""Losses of the embedding: triplets of crops with several labels each, and ArcFace over antibodies.

The only module that imports pytorch-metric-learning.
"""

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import ArcFaceLoss, TripletMarginLoss
from torch import Tensor, nn

from classify.config import ClassifySection, Mining
from hpa.errors import UserError

Triplets = tuple[Tensor, Tensor, Tensor]
_DISTANCE: Final = LpDistance()  # Euclidean on the unit sphere, the default of the loss


def label_pairs(targets: Tensor, jaccard: float) -> tuple[Tensor, Tensor]:
    """Return the positives and negatives of every crop of a batch by the overlap of their labels.

    Positives overlap by at least `jaccard`, negatives have no label in common, other pairs are neither. A crop without
    labels is never an anchor or a positive, but a negative of every crop that has a label. Only classes that are known
    for both crops count. If one crop has a class that is unknown for the other, the two may have it in common and are
    not negatives.

    Parameters
    ----------
    targets
        Shape (N, K), 0 or 1, NaN where unknown.
    jaccard
        Minimum Jaccard index of a positive, in (0, 1].

    Returns
    -------
    positive, negative
        Boolean, shape (N, N); row i belongs to anchor i.
    """
    known = (~targets.float().isnan()).float()
    hot = targets.float().nan_to_num()
    common = hot @ hot.T
    sizes = hot @ known.T  # row i, column j: number of classes of crop i that are known for crop j
    union = sizes + sizes.T - common
    undecided = hot @ (1 - known).T > 0
    # Counts below 2^24 are exact in float32, so comparing products avoids the rounding of a quotient.
    positive = (common > 0) & (common >= jaccard * union)
    positive.fill_diagonal_(False)
    return positive, (common == 0) & (sizes > 0) & ~(undecided | undecided.T)


def antibody_pairs(antibodies: Tensor) -> Tensor:
    """Return which pairs of crops share a known antibody, boolean, shape (N, N); -1 is unknown."""
    positive = (antibodies[:, None] == antibodies[None, :]) & (antibodies[:, None] >= 0)
    positive.fill_diagonal_(False)
    return positive


def multi_label_triplets(targets: Tensor, jaccard: float) -> Triplets:
    """Return every (anchor, positive, negative) of a batch of crops with sets of labels.

    Returns
    -------
    tuple of Tensor
        Anchors, positives and negatives: int64 indices into the batch, of equal length (maybe 0), sorted.
    """
    return all_triplets(*label_pairs(targets, jaccard))


def all_triplets(positive: Tensor, negative: Tensor) -> Triplets:
    """Combine every positive of an anchor with every negative; both are boolean, shape (N, N)."""
    anchors, positives, negatives = torch.nonzero(positive[:, :, None] & negative[:, None, :], as_tuple=True)
    return anchors, positives, negatives


def mine_triplets(embeddings: Tensor, positive: Tensor, negative: Tensor, mining: Mining, margin: float) -> Triplets:
    """Select the triplets that the loss is computed on.

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
        Distance by which negatives must be farther than positives.
    """
    if mining == "all":
        return all_triplets(positive, negative)
    with torch.no_grad():
        distances: Tensor = _DISTANCE(embeddings.float())
    if mining == "semi-hard":
        anchors, positives, negatives = all_triplets(positive, negative)
        gap = distances[anchors, negatives] - distances[anchors, positives]
        hard = (gap > 0) & (gap < margin)
        return anchors[hard], positives[hard], negatives[hard]
    farthest = distances.masked_fill(~positive, -1.0).argmax(1)
    nearest = distances.masked_fill(~negative, torch.inf).argmin(1)
    anchors = torch.nonzero(positive.any(1) & negative.any(1))[:, 0]
    return anchors, farthest[anchors], nearest[anchors]


def triplet_loss(embeddings: Tensor, targets: Tensor, antibodies: Tensor, section: ClassifySection) -> Tensor:
    """Compute the triplet margin loss over the mined triplets of a batch that violate the margin.

    ``mean(max(0, |a - p| - |a - n| + margin))`` over the triplets where it is positive (Schroff et al. 2015,
    https://arxiv.org/abs/1503.03832; averaging over the active ones keeps the gradient from fading).

    Parameters
    ----------
    embeddings
        Shape (N, D), float32, of unit length.
    targets
        Shape (N, K), 0 or 1, NaN where unknown.
    antibodies
        Shape (N,), -1 where unknown.
    section
        Recipe section: choice of positives, mining and margin.

    Returns
    -------
    Tensor
        Scalar; a differentiable zero if the batch has no triplet.
    """
    positive, negative = label_pairs(targets, section.triplet_jaccard)
    if section.triplet_positives == "antibody":
        positive = antibody_pairs(antibodies)
    margin = section.triplet_margin
    triplets = mine_triplets(embeddings.float(), positive, negative, section.triplet_mining, margin)
    loss: Tensor = TripletMarginLoss(margin=margin)(embeddings.float(), indices_tuple=triplets)
    return loss


def new_arcface(antibodies: NDArray[np.int64], section: ClassifySection, seed: int) -> nn.Module:
    """Return the second head: a direction in the embedding for every antibody, and the ArcFace loss over them.

    Parameters
    ----------
    antibodies
        Number of the antibody of each crop, -1 where unknown.
    section
        Recipe section: length of the embedding, margin and scale.
    seed
        Seed of the directions; the random state of the process does not change.

    Raises
    ------
    UserError
        If no antibody is known.
    """
    count = int(antibodies.max(initial=-1)) + 1
    if not count:
        raise UserError(
            "expected images with antibodies for classify.arcface_weight, found none (data.md says how to give them)"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head: nn.Module = ArcFaceLoss(
            count, section.embedding_dim, margin=section.arcface_margin, scale=section.arcface_scale
        )
    return head


def arcface_loss(head: nn.Module, embeddings: Tensor, antibodies: Tensor) -> Tensor:
    """Compute the ArcFace loss of the crops with a known antibody (Deng et al. 2019, https://arxiv.org/abs/1801.07698).

    The mean over crops of ``-log softmax`` of the cosines between embedding and directions, times the scale, where the
    angle to the crop's own antibody is enlarged by the margin.

    Parameters
    ----------
    head
        `new_arcface`.
    embeddings
        Shape (N, D).
    antibodies
        Shape (N,), -1 where unknown.

    Returns
    -------
    Tensor
        Scalar; a differentiable zero if no antibody is known.
    """
    known = antibodies >= 0
    if not known.any():
        return embeddings.sum() * 0
    loss: Tensor = head(embeddings[known].float(), antibodies[known])
    return loss
