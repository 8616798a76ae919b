"""Mixing of the crops of a batch and of their targets: mixup and cutmix."""

import torch
from torch import Tensor
from torchvision.transforms import v2

from classify.config import ClassifySection
from classify.data.batches import Batch
from classify.network.model import Network, Outputs


def run_network(network: Network, batch: Batch, section: ClassifySection, seed: int) -> tuple[Outputs, Batch]:
    """Run a network over a batch for a training step, mixed if the recipe mixes.

    Parameters
    ----------
    network
        The network.
    batch
        The batch.
    section
        Recipe section.
    seed
        Seed of the mixing.

    Returns
    -------
    outputs, batch
        Outputs, and the batch with the targets and weights that belong to them.
    """
    if not (section.mixup or section.cutmix):
        return network(batch.pixels, batch.levels), batch
    x, batch = mix(network.prepare(batch.pixels, batch.levels), batch, section, seed)
    return network.outputs(x), batch


def mix(x: Tensor, batch: Batch, section: ClassifySection, seed: int) -> tuple[Tensor, Batch]:
    """Mix each crop with the one before it in the batch, by torchvision's mixup or cutmix.

    Mixup is Zhang et al. 2018, https://arxiv.org/abs/1710.09412; cutmix Yun et al. 2019,
    https://arxiv.org/abs/1905.04899. If the recipe has both, each batch gets one of them.

    Parameters
    ----------
    x
        Normalised crops, (N, C, h, w).
    batch
        Their batch; targets and weights are mixed in the same proportion, and a class that is unknown of one of two
        crops is unknown of their mixture.
    section
        Recipe section: the parameter of the beta distribution that proportions are drawn from.
    seed
        Seed of the draws.

    Returns
    -------
    x, batch
        The mixtures; the crops of `batch` itself stay.
    """
    kinds = [kind(alpha=alpha) for kind, alpha in ((v2.MixUp, section.mixup), (v2.CutMix, section.cutmix)) if alpha]
    labels = torch.cat([batch.targets, batch.weights[:, None]], dim=1)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        kind = kinds[int(torch.randint(len(kinds), ()))]
        mixed, labels = kind(x, labels)
    return mixed, batch._replace(targets=labels[:, :-1], weights=labels[:, -1])
