"""The network: a backbone with a stem of C channels, a class head, and optional embedding and attention heads."""

from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize
from torch.nn.modules.batchnorm import _BatchNorm

from classify.config import ClassifySection, Stem
from classify.network.backbones import feature_map_shape, load_weights, new_backbone
from classify.network.layers import (
    FeaturePooling,
    GatedAttention,
    add_cbam,
    first_convolution,
    new_adapter,
    replace_stem,
    widen_stem,
)
from classify.network.pretrained import Start
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
    start
        The weights that it starts from (`classify.network.start.read_start`); None for random ones.

    Raises
    ------
    UserError
        If there is no such backbone, or the weights are those of another.
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
        start: Start | None = None,
    ) -> None:
        super().__init__()
        self._normalise_by = section.normalise
        self._input_px = section.input_px
        backbone = new_backbone(section.backbone)
        shape = feature_map_shape(backbone)
        assert shape is not None, "new_backbone returns no other backbones"
        filters = None if start is None else load_weights(backbone, start.backbone, section.backbone)
        backbone = add_cbam(backbone) if section.attention == "cbam" else backbone
        self.adapter = new_adapter(channels) if section.stem == "adapter" else None
        self._stem_is_new = filters is not None and (start is None or start.stem is None) and filters.shape[1] == 3
        if self.adapter is None:
            first = first_convolution(backbone).state_dict()
            stem = replace_stem(backbone, channels)
            if start is not None and filters is not None:
                stem.load_state_dict(first | {"weight": _stem_filters(filters, start.stem, channels, section.stem)})
        self.backbone = backbone
        self.features = FeaturePooling(section.features)
        if start is not None and start.features == section.features:
            learned = {name.removeprefix("features."): w for name, w in start.heads.items() if "features." in name}
            self.features.load_state_dict(learned)
        width = self.features.width(shape[0])
        self.head = nn.Linear(width, classes)
        self.embedding = nn.Linear(width, section.embedding_dim) if section.embedding_dim else None
        pooling = section.pooling if section.objective != "cell" else None
        self.attention = GatedAttention(width) if pooling == "attention" else None
        # AutoPool's sharpness of each class: 0 gives the mean over crops, infinity the maximum.
        self.alpha = nn.Parameter(torch.ones(classes)) if pooling == "auto" else None
        self.to(memory_format=torch.channels_last)  # a third faster in bfloat16, no slower in float32
        # The head over antibodies, which training adds and leaves out of what it returns.
        self.arcface: nn.Module | None = None
        # The checkpoint stores these in fields of their own, not among the weights.
        self.register_buffer("mean", _per_channel(mean), persistent=False)
        self.register_buffer("std", _per_channel(std), persistent=False)

    def forward(self, pixels: Tensor, levels: Tensor | None = None) -> Outputs:
        """Compute the outputs for crops, or for their features.

        Parameters
        ----------
        pixels
            Shape (N, C, H, W), uint8; or features, shape (N, F), float32, which only pass the heads.
        levels
            Offset and divisor of each crop and channel, shape (N, 2, C), if the recipe's normalisation depends on more
            than the crop itself (`classify.data.normalisation.crop_levels`).
        """
        if pixels.ndim == 2:
            return self._outputs(pixels)
        x = self._normalise(pixels.float(), levels)
        if self._input_px:
            x = interpolate(x, (self._input_px, self._input_px), mode="bilinear", antialias=True, align_corners=False)
        x = x.contiguous(memory_format=torch.channels_last)
        return self._outputs(self.features(self.backbone(x if self.adapter is None else self.adapter(x))))

    def _outputs(self, features: Tensor) -> Outputs:
        embeddings = None if self.embedding is None else normalize(self.embedding(features).float(), dim=1)
        attention = None if self.attention is None else self.attention(features).float()
        return Outputs(self.head(features), embeddings, features, attention)

    def freeze(self, frozen: bool) -> None:
        """Freeze or unfreeze the backbone except its attention and a stem for other channels than the weights have.

        Frozen batch norms keep their statistics.
        """
        for name, child in self.backbone.named_modules():
            if "cbam" in name:
                continue
            for parameter in child.parameters(recurse=False):
                parameter.requires_grad_(not frozen)
            if isinstance(child, _BatchNorm):
                child.train(self.training and not frozen)
        if self.adapter is None and self._stem_is_new:
            for parameter in first_convolution(self.backbone).parameters():
                parameter.requires_grad_(True)

    def train_only_heads(self) -> None:
        """Freeze all that leads to the features, for good."""
        for module in (self.backbone, self.features, *([] if self.adapter is None else [self.adapter])):
            module.requires_grad_(False)

    def _normalise(self, pixels: Tensor, levels: Tensor | None) -> Tensor:
        if levels is not None:
            return (pixels - levels[:, 0, :, None, None]) / levels[:, 1, :, None, None]
        if self._normalise_by == "stack":
            low, high = pixels.amin((1, 2, 3), keepdim=True), pixels.amax((1, 2, 3), keepdim=True)
            return (pixels - low) / (high - low).clamp(min=1.0)
        if self._normalise_by != "crop":
            return (pixels - self.mean) / self.std
        variance, mean = torch.var_mean(pixels, dim=(2, 3), keepdim=True, correction=0)
        return (pixels - mean) / (variance.sqrt() + FLOOR * self.std)


def _per_channel(values: ArrayLike) -> Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.float32)).reshape(1, -1, 1, 1)


def _stem_filters(filters: Tensor, stem: list[list[int]] | None, channels: int, rule: Stem) -> Tensor:
    """Return the filters of a stem of some channels: selected by name, as they are, or extended from RGB."""
    if stem is not None:
        # A mixture is one picture of several channels: its filters are the mean of theirs.
        return torch.stack([filters[:, own].mean(1) for own in stem], dim=1)
    if filters.shape[1] == 3:
        return widen_stem(filters, channels, rule)
    if filters.shape[1] != channels:
        raise UserError(f"expected weights with a stem of 3 or {channels} channels, found {filters.shape[1]}")
    return filters


def new_network(
    section: ClassifySection,
    seed: int,
    mean: ArrayLike,
    std: ArrayLike,
    frequencies: ArrayLike,
    start: Start | None = None,
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
        training need not first unlearn the rare classes (Lin et al. 2017, section 3.3). Pretrained heads keep theirs.
    start
        The weights that it starts from; None for random ones.

    Raises
    ------
    UserError
        If there is no such backbone, or the weights are those of another.
    """
    p = np.asarray(frequencies, dtype=np.float64).clip(1e-4, 1 - 1e-4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network(section, np.size(mean), p.size, mean, std, start=start)
    with torch.no_grad():
        network.head.bias.copy_(torch.from_numpy(np.log(p / (1 - p))))
    if start is not None and section.heads == "pretrained":
        network.head.load_state_dict({name: start.heads[f"head.{name}"] for name in ("weight", "bias")})
    if section.trainable == "heads":
        network.train_only_heads()
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
