"""Differentiable pooling of the probabilities of crops to those of their images.

`aggregate.pooling.formulas` has the same formulas in NumPy; a test checks that the two agree. With p the probabilities
of a bag and w the weights of its crops (1 unless the recipe weights by completeness):

=============== ==================================================================================================
max             max w p
top-k           mean of the k largest w p, or of all if the bag is smaller
log-sum-exp     log(sum w exp(r p) / sum w) / r (Pinheiro and Collobert 2015, https://arxiv.org/abs/1411.6228)
linear-softmax  sum w p^2 / sum w p (Wang et al. 2019, https://arxiv.org/abs/1810.09050)
noisy-or        1 - prod (1 - w p)
auto            sum w p e^(a p) / sum w e^(a p), a learned per class (McFee et al. 2018, https://arxiv.org/abs/1804.10070)
attention       sum w p e^s / sum w e^s, s a learned score of the crop (Ilse et al. 2018, https://arxiv.org/abs/1802.04712)
=============== ==================================================================================================
"""

from typing import NamedTuple

import torch
from torch import Tensor

from classify.config import ClassifySection

_TINY = 1e-6


class Bags(NamedTuple):
    """B bags padded to the size M of the largest."""

    probabilities: Tensor
    """float32 (B, M, K), within 0..1; any value in the padding."""
    weights: Tensor
    """float32 (B, M), 0 in the padding."""
    attention: Tensor | None = None
    """float32 (B, M), score of each crop; any value in the padding."""
    alpha: Tensor | None = None
    """float32 (K,), sharpness of each class."""


def pad_bags(values: Tensor, bags: Tensor) -> tuple[Tensor, Tensor]:
    """Arrange rows by bag and pad every bag to the size of the largest.

    Parameters
    ----------
    values
        Shape (N, ...).
    bags
        Number of the bag of each row, int64 (N,), rising from 0 by at most 1.

    Returns
    -------
    padded, present
        Shape (B, M, ...), 0 in the padding; boolean, shape (B, M), False in the padding.
    """
    sizes = torch.bincount(bags)
    first = sizes.cumsum(0) - sizes
    place = torch.arange(len(bags), device=bags.device) - first[bags]
    shape = (len(sizes), int(sizes.max()))
    padded = values.new_zeros((*shape, *values.shape[1:]))
    present = torch.zeros(shape, dtype=torch.bool, device=values.device)
    present[bags, place] = True
    return padded.index_put((bags, place), values), present


def pool(bags: Bags, section: ClassifySection) -> Tensor:
    """Pool the probabilities of each bag by the recipe's formula.

    Returns
    -------
    Tensor
        Shape (B, K), float32, within 0..1.
    """
    weights = bags.weights[..., None]
    absent = weights == 0
    p = bags.probabilities.float().masked_fill(absent, 0.0)
    if section.pooling == "max":
        return (weights * p).amax(1)
    if section.pooling == "top-k":
        return _top_k(weights * p, (~absent).sum(1), section.top_k)
    if section.pooling == "noisy-or":
        return 1 - (1 - weights * p).prod(1)
    if section.pooling == "linear-softmax":
        return (weights * p * p).sum(1) / (weights * p).sum(1).clamp(min=_TINY)
    if section.pooling == "log-sum-exp":
        total = torch.logsumexp(section.sharpness * p + weights.clamp(min=0).log(), dim=1)
        return ((total - weights.sum(1).log()) / section.sharpness).clamp(0, 1)
    scores = _scores(bags, p) + weights.log()  # minus infinity in the padding
    return (torch.softmax(scores, dim=1) * p).sum(1).clamp(0, 1)


def _top_k(p: Tensor, sizes: Tensor, k: int) -> Tensor:
    k = min(k, p.shape[1])
    return p.topk(k, dim=1).values.sum(1) / sizes.clamp(max=k)


def _scores(bags: Bags, p: Tensor) -> Tensor:
    if bags.alpha is not None:
        return bags.alpha * p
    assert bags.attention is not None, "the network has an attention head for this pooling"
    return bags.attention[..., None]


def pooled_logits(p: Tensor) -> Tensor:
    """Return the logits of pooled probabilities, which are first clipped to 1e-6 from 0 and 1."""
    return torch.logit(p.clamp(_TINY, 1 - _TINY))
