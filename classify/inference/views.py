"""The eight dihedral views of a crop: four turns, each as it is and mirrored."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from classify.config import Views
from classify.network.model import Outputs


def dihedral(pixels: Tensor) -> list[Tensor]:
    """Return the eight views of crops of shape (N, C, S, S), the first as they are."""
    turned = [torch.rot90(pixels, k, (2, 3)) for k in range(4)]
    return turned + [view.flip(3) for view in turned]


def of_views(network: Callable[[Tensor], Outputs], pixels: Tensor, views: Views) -> tuple[Outputs, Tensor]:
    """Look at crops, and at their other views if the recipe wants them.

    Parameters
    ----------
    network
        What looks; its outputs are float32.
    pixels
        Shape (N, C, S, S).
    views
        ``"one"``, or how the eight are put together: the ``"mean"`` or ``"maximum"`` of their probabilities.

    Returns
    -------
    outputs
        Of the crops as they are; features, embeddings and attention are the mean of the views.
    probabilities
        Shape (N, K).
    """
    outputs = network(pixels)
    if views == "one":
        return outputs, torch.sigmoid(outputs.logits)
    every = [outputs] + [network(view) for view in dihedral(pixels)[1:]]
    stacked = torch.stack([torch.sigmoid(one.logits) for one in every])
    probabilities = stacked.mean(0) if views == "mean" else stacked.amax(0)
    embeddings = None
    if outputs.embeddings is not None:
        embeddings = normalize(_mean([one.embeddings for one in every]), dim=1)
    attention = None if outputs.attention is None else _mean([one.attention for one in every])
    return Outputs(outputs.logits, embeddings, _mean([one.features for one in every]), attention), probabilities


def _mean(parts: Sequence[Tensor | None]) -> Tensor:
    return torch.stack([part for part in parts if part is not None]).mean(0)
