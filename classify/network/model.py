"""The network: a backbone with a stem of C channels, a class head, and, if asked, an embedding and attention."""

from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize
from torch.nn.modules.batchnorm import _BatchNorm

from classify.config import ClassifySection
from classify.network.backbones import feature_map, file_state, fill, library_state, new_backbone
from classify.network.features import FeaturePooling
from classify.network.layers import GatedAttention, with_cbam
from classify.network.stem import first_convolution, new_adapter, replace_stem, widen_stem
from hpa.errors import UserError

FLOOR: Final = 0.05
"""Added to a crop's own deviation: this share of the training folds', so that an empty channel stays nearly flat."""


class Outputs(NamedTuple):
    """What the network says of N crops."""

    logits: Tensor
    """Shape (N, K)."""
    embeddings: Tensor | None
    """Shape (N, D), rows of unit length; None without an embedding head."""
    features: Tensor
    """Shape (N, F), what the heads look at."""
    attention: Tensor | None
    """Shape (N,), how much a crop counts in its bag before the softmax; None unless bags are pooled by attention."""


class Network(nn.Module):
    """Crops of C channels to K logits, and to an embedding if asked.

    Normalisation is part of the network, so that nobody can feed it crops normalised in another way.

    Parameters
    ----------
    section
        Backbone, weights to start from, length of the embedding.
    channels
        C.
    classes
        K.
    mean, std
        Grey value and its deviation per channel over the training folds, length C, in uint8 units. Where every crop
        is normalised by itself, only `std` is used, as the floor below which contrast is not blown up.
    pretrained
        Fill the backbone with the weights that the recipe names; without it they are random, to be loaded.

    Raises
    ------
    UserError
        If there is no such backbone, or its weights are not to be had.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        section: ClassifySection,
        channels: int,
        classes: int,
        mean: ArrayLike,
        std: ArrayLike,
        *,
        pretrained: bool = False,
    ) -> None:
        super().__init__()
        self._normalise_by = section.normalise
        self._input_px = section.input_px
        backbone = new_backbone(section.backbone)
        shape = feature_map(backbone)
        assert shape is not None, "new_backbone has seen to it"
        state = _initial_state(section) if pretrained else None
        if state is not None:
            fill(backbone, state, section.backbone)
        backbone = with_cbam(backbone) if section.attention == "cbam" else backbone
        self.adapter = new_adapter(channels) if section.stem == "adapter" else None
        if self.adapter is None:
            rgb = first_convolution(backbone).state_dict()
            stem = replace_stem(backbone, channels)
            if state is not None:
                stem.load_state_dict(rgb | {"weight": widen_stem(rgb["weight"], channels, section.stem)})
        self.backbone = backbone
        self.features = FeaturePooling(section.features)
        width = self.features.width(shape[0])
        self.head = nn.Linear(width, classes)
        self.embedding = nn.Linear(width, section.embedding_dim) if section.embedding_dim else None
        pools = section.pooling if section.objective != "cell" else None
        self.attention = GatedAttention(width) if pools == "attention" else None
        # How sharply each class looks at its likeliest crops (AutoPool); 0 is the mean, infinity the maximum.
        self.alpha = nn.Parameter(torch.ones(classes)) if pools == "auto" else None
        self.to(memory_format=torch.channels_last)  # bfloat16 is a third faster so, float32 as fast as before
        # Kept by the checkpoint under its own name, not among the weights.
        self.register_buffer("mean", _per_channel(mean), persistent=False)
        self.register_buffer("std", _per_channel(std), persistent=False)

    def forward(self, pixels: Tensor, levels: Tensor | None = None) -> Outputs:
        """Look at crops.

        Parameters
        ----------
        pixels
            Shape (N, C, H, W), uint8.
        levels
            Shape (N, 2, C): what is subtracted from each crop and what it is then divided by, where the recipe's
            normalisation depends on more than the crop (`classify.data.normalisation`).
        """
        x = self._normalise(pixels.float(), levels)
        if self._input_px:
            x = interpolate(x, (self._input_px, self._input_px), mode="bilinear", antialias=True, align_corners=False)
        x = x.contiguous(memory_format=torch.channels_last)
        features = self.features(self.backbone(x if self.adapter is None else self.adapter(x)))
        embeddings = None if self.embedding is None else normalize(self.embedding(features).float(), dim=1)
        attention = None if self.attention is None else self.attention(features).float()
        return Outputs(self.head(features), embeddings, features, attention)

    def freeze(self, frozen: bool) -> None:
        """Train, or hold still, the backbone but for its stem and attention; frozen batch norms keep their counts."""
        for name, child in self.backbone.named_modules():
            if "cbam" in name:
                continue
            for parameter in child.parameters(recurse=False):
                parameter.requires_grad_(not frozen)
            if isinstance(child, _BatchNorm):
                child.train(self.training and not frozen)
        if self.adapter is None:
            for parameter in first_convolution(self.backbone).parameters():
                parameter.requires_grad_(True)

    def _normalise(self, pixels: Tensor, levels: Tensor | None) -> Tensor:
        if levels is not None:
            return (pixels - levels[:, 0, :, None, None]) / levels[:, 1, :, None, None]
        if self._normalise_by != "crop":
            return (pixels - self.mean) / self.std
        variance, mean = torch.var_mean(pixels, dim=(2, 3), keepdim=True, correction=0)
        return (pixels - mean) / (variance.sqrt() + FLOOR * self.std)


def _per_channel(values: ArrayLike) -> Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.float32)).reshape(1, -1, 1, 1)


def _initial_state(section: ClassifySection) -> dict[str, Tensor] | None:
    if section.weights_file:
        return file_state(Path(section.weights_file))
    return library_state(section.backbone) if section.pretrained else None


def new_network(
    section: ClassifySection, seed: int, mean: ArrayLike, std: ArrayLike, frequencies: ArrayLike
) -> Network:
    """Make a network to be trained: pretrained or drawn from `seed`, the class head at the class frequencies.

    Parameters
    ----------
    section
        The recipe's section.
    seed
        Seeds the weights; the process's own random state is left alone.
    mean, std
        Normalisation, length C, in uint8 units.
    frequencies
        Share of training crops that carry each class, length K. The head starts with their log odds as
        bias, so that rare classes need not first be unlearned (Lin et al. 2017, section 3.3).

    Raises
    ------
    UserError
        If there is no such backbone, or pretrained weights are asked for and not to be had.
    """
    share = np.asarray(frequencies, dtype=np.float64).clip(1e-4, 1 - 1e-4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network(section, np.size(mean), share.size, mean, std, pretrained=True)
    with torch.no_grad():
        network.head.bias.copy_(torch.from_numpy(np.log(share / (1 - share))))
    return network


def check_input(network: Network, channels: int, side_px: int) -> None:
    """See that the network can look at crops of a size.

    Raises
    ------
    UserError
        If they are too small for its backbone.
    """
    training = network.training
    try:
        with torch.inference_mode():
            network.eval()(torch.zeros(1, channels, side_px, side_px, dtype=torch.uint8), _flat_levels(channels))
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"expected crops large enough for the backbone, found {side_px} px (set classify.input_px; {reason})"
        ) from None
    finally:
        network.train(training)


def _flat_levels(channels: int) -> Tensor:
    return torch.stack([torch.zeros(1, channels), torch.ones(1, channels)], dim=1)
