"""Triplets of crops with several labels each, and their loss. The one module that imports pytorch-metric-learning."""

import torch
from pytorch_metric_learning.losses import TripletMarginLoss
from torch import Tensor


def multi_label_triplets(targets: Tensor, jaccard: float) -> tuple[Tensor, Tensor, Tensor]:
    """Find every (anchor, positive, negative) of a batch whose crops carry sets of labels.

    A positive is another crop whose target overlaps the anchor's by a Jaccard index of at least `jaccard`; a
    negative has no label in common with the anchor. Pairs between the two are neither. A crop with the empty
    target is never an anchor or a positive, but a negative of every crop that has a label.

    Parameters
    ----------
    targets
        Shape (N, K), 0 or 1.
    jaccard
        Least overlap of a positive, in (0, 1].

    Returns
    -------
    tuple of Tensor
        Anchors, positives and negatives: int64 indices into the batch, of one length (maybe 0), sorted.
    """
    hot = targets.float()
    common = hot @ hot.T
    sizes = hot.sum(1)
    union = sizes[:, None] + sizes[None, :] - common
    # Counts below 2^24 are exact in float32, so comparing products avoids the rounding of a quotient.
    positive = (common > 0) & (common >= jaccard * union)
    positive.fill_diagonal_(False)
    negative = (common == 0) & (sizes[:, None] > 0)
    anchors, positives, negatives = torch.nonzero(positive[:, :, None] & negative[:, None, :], as_tuple=True)
    return anchors, positives, negatives


def triplet_loss(embeddings: Tensor, targets: Tensor, jaccard: float, margin: float) -> Tensor:
    """Triplet margin loss over all triplets of a batch that still violate the margin.

    ``mean(max(0, |a - p| - |a - n| + margin))`` over the triplets where it is positive (Schroff et al. 2015,
    https://arxiv.org/abs/1503.03832; averaging over the active ones keeps the gradient from fading).

    Parameters
    ----------
    embeddings
        Shape (N, D), float32, of unit length.
    targets
        Shape (N, K), 0 or 1.
    jaccard
        Least overlap of a positive, in (0, 1].
    margin
        How much farther than the positive the negative must be.

    Returns
    -------
    Tensor
        Scalar; a zero that can be differentiated where the batch has no triplet.
    """
    triplets = multi_label_triplets(targets, jaccard)
    loss: Tensor = TripletMarginLoss(margin=margin)(embeddings.float(), indices_tuple=triplets)
    return loss
