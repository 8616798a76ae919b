"""The loss of a training step: that of the recipe's objective, and what the recipe adds to it."""

from collections.abc import Mapping

from torch import Tensor

from classify.config import ClassifySection
from classify.data.batches import Batch
from classify.losses.objective import batch_loss
from classify.losses.triplets import arcface_loss
from classify.network.model import Network, Outputs


def step_loss(
    network: Network,
    outputs: Outputs,
    batch: Batch,
    section: ClassifySection,
    weights: Tensor | None,
    held: Mapping[str, Tensor],
) -> Tensor:
    """Return the loss of a batch, a scalar.

    Parameters
    ----------
    network
        The network; ArcFace's head over antibodies, if the recipe has one, is on it.
    outputs, batch
        The outputs for a batch, and the batch, mixed as it was seen.
    section
        Recipe section.
    weights
        Weights of the classes (`classify.losses.classification.class_weights`).
    held
        Parameters that are held near their start, by name (`classify.training.fold_training.FoldTraining.held_heads`).
    """
    loss = batch_loss(outputs, batch, section, network.alpha, weights)
    if network.arcface is not None:
        assert outputs.embeddings is not None, "the recipe has an embedding"
        loss = loss + section.arcface_weight * arcface_loss(network.arcface, outputs.embeddings, batch.antibodies)
    for name, start in held.items():
        parameter = network.get_parameter(name)
        loss = loss + section.hold * (parameter - start.to(parameter.device)).square().sum()
    return loss
