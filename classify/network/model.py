"""The network: a backbone with a stem of C channels, a class head, and optional embedding and attention heads."""

from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize
from torch.nn.modules.batchnorm import _BatchNorm

from classify.config import ClassifySection
from classify.network.backbones import feature_map_shape, library_weights, load_weights, new_backbone, read_weights
from classify.network.layers import (
    FeaturePooling,
    GatedAttention,
    add_cbam,
    first_convolution,
    new_adapter,
    replace_stem,
    widen_stem,
)
from hpa.errors import UserError

FLOOR: Final = 0.05
"""Fraction of the training crops' standard deviation that is added to a crop's own, so that an empty channel stays
nearly flat."""


class Outputs(NamedTuple):
    """Output of the network for N crops."""

    logits: Tensor
    """Shape (N, K)."""
    embeddings: Tensor | None
    """Shape (N, D), rows of unit length; None without an embedding head."""
    features: Tensor
    """Shape (N, F), the input of the heads."""
    attention: Tensor | None
    """Shape (N,), score of the crop in its bag before the softmax; None unless bags are pooled by attention."""


class Network(nn.Module):
    """Classifier that maps crops of C channels to K logits and, optionally, to an embedding.

    Normalisation is part of the network, so that it cannot be given crops that are normalised in another way.

    Parameters
    ----------
    section
        Recipe section: backbone, initial weights, length of the embedding.
    channels
        Number of channels C.
    classes
        Number of classes K.
    mean, std
        Mean and standard deviation of the grey values per channel over the training crops, length C, in uint8 units.
        If every crop is normalised by itself, only `std` is used, to limit the amplification of weak contrast.
    pretrained
        Whether to load the initial weights that the recipe names; otherwise the weights are random.

    Raises
    ------
    UserError
        If there is no such backbone or its weights are not available.
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
        shape = feature_map_shape(backbone)
        assert shape is not None, "new_backbone returns no other backbones"
        state = _initial_weights(section) if pretrained else None
        if state is not None:
            load_weights(backbone, state, section.backbone)
        backbone = add_cbam(backbone) if section.attention == "cbam" else backbone
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
        pooling = section.pooling if section.objective != "cell" else None
        self.attention = GatedAttention(width) if pooling == "attention" else None
        # AutoPool's sharpness of each class: 0 gives the mean over crops, infinity the maximum.
        self.alpha = nn.Parameter(torch.ones(classes)) if pooling == "auto" else None
        self.to(memory_format=torch.channels_last)  # a third faster in bfloat16, no slower in float32
        # The checkpoint stores these in fields of their own, not among the weights.
        self.register_buffer("mean", _per_channel(mean), persistent=False)
        self.register_buffer("std", _per_channel(std), persistent=False)

    def forward(self, pixels: Tensor, levels: Tensor | None = None) -> Outputs:
        """Compute the outputs for crops.

        Parameters
        ----------
        pixels
            Shape (N, C, H, W), uint8.
        levels
            Offset and divisor of each crop and channel, shape (N, 2, C), if the recipe's normalisation depends on more
            than the crop itself (`classify.data.normalisation.crop_levels`).
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
        """Freeze or unfreeze the backbone except its stem and attention; frozen batch norms keep their statistics."""
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


def _initial_weights(section: ClassifySection) -> dict[str, Tensor] | None:
    if section.weights_file:
        return read_weights(Path(section.weights_file))
    return library_weights(section.backbone) if section.pretrained else None


def new_network(
    section: ClassifySection, seed: int, mean: ArrayLike, std: ArrayLike, frequencies: ArrayLike
) -> Network:
    """Return a network to be trained, with pretrained or random weights and a class head at the class frequencies.

    Parameters
    ----------
    section
        Recipe section.
    seed
        Seed of the random weights; the random state of the process does not change.
    mean, std
        Mean and standard deviation per channel, length C, in uint8 units.
    frequencies
        Fraction of training crops with each class, length K. The bias of the head starts at their log odds, so that
        training need not first unlearn the rare classes (Lin et al. 2017, section 3.3).

    Raises
    ------
    UserError
        If there is no such backbone, or pretrained weights are requested but not available.
    """
    p = np.asarray(frequencies, dtype=np.float64).clip(1e-4, 1 - 1e-4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network(section, np.size(mean), p.size, mean, std, pretrained=True)
    with torch.no_grad():
        network.head.bias.copy_(torch.from_numpy(np.log(p / (1 - p))))
    return network


def check_input(network: Network, channels: int, side_px: int) -> None:
    """Check that the network accepts crops of a size.

    Raises
    ------
    UserError
        If the crops are too small for its backbone.
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
