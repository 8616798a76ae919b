"""What training makes small: the losses of a batch put together as the recipe says."""

from torch import Tensor

from classify.config import ClassifySection
from classify.losses import focal_loss
from classify.model import Outputs
from classify.triplets import triplet_loss


def batch_loss(outputs: Outputs, targets: Tensor, section: ClassifySection) -> Tensor:
    """Return the focal loss of a batch, and the weighted triplet loss if the network has an embedding.

    Parameters
    ----------
    outputs
        Of the network, for N crops.
    targets
        Labels that the crops inherit from their images, shape (N, K), 0 or 1; NaN where nothing is known.
    section
        Weights and parameters of the losses.
    """
    loss = focal_loss(outputs.logits, targets, section.focal_gamma, section.focal_alpha)
    if outputs.embeddings is None:
        return loss
    triplets = triplet_loss(outputs.embeddings, targets.nan_to_num(), section.triplet_jaccard, section.triplet_margin)
    return loss + section.triplet_weight * triplets
