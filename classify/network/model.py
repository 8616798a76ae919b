"""The network: a backbone with a stem of C channels, a class head, and optional embedding and attention heads."""

from collections.abc import Iterable, Sequence
from functools import cached_property
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
from classify.network.parts import Stages, check_feature_stages, find_stages, stage_maps
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
        self._name = section.backbone
        self.input_px = self.training_px = section.input_px
        backbone = new_backbone(section.backbone)
        shape = feature_map_shape(backbone)
        assert shape is not None, "new_backbone returns no other backbones"
        filters = None if start is None else load_weights(backbone, start.backbone, section.backbone)
        backbone = add_cbam(backbone) if section.attention == "cbam" else backbone
        self.adapter = new_adapter(channels) if section.stem == "adapter" else None
        if self.adapter is not None and filters is not None and filters.shape[1] != 3:
            raise UserError(
                f'expected weights for three channels with classify.stem = "adapter", found some for {filters.shape[1]}'
            )
        stem_is_new = filters is not None and (start is None or start.stem is None) and filters.shape[1] == 3
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
        self._pretrained = frozenset[str]() if start is None else _pretrained_names(backbone, stem_is_new=stem_is_new)
        self._feature_stages = section.feature_stages
        width = self.features.width(self._measure_stages() if self._feature_stages else shape[0])
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
        return self.outputs(pixels if pixels.ndim == 2 else self.prepare(pixels, levels))

    def prepare(self, pixels: Tensor, levels: Tensor | None = None) -> Tensor:
        """Normalise and resize crops, as `forward` does, to (N, C, h, w), float32."""
        x = self._normalise(pixels.float(), levels)
        side = self.training_px if self.training else self.input_px
        if side:
            x = interpolate(x, (side, side), mode="bilinear", antialias=True, align_corners=False)
        return x.contiguous(memory_format=torch.channels_last)

    def outputs(self, x: Tensor) -> Outputs:
        """Compute the outputs for prepared crops, (N, C, h, w), or for features, (N, F)."""
        return self._outputs(x if x.ndim == 2 else self.pooled(self.feature_maps(x)))

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        """Return the feature maps of prepared crops, (N, C, h, w), which `pooled` turns into features."""
        x = x if self.adapter is None else self.adapter(x)
        if not self._feature_stages:
            return [self.backbone(x)]
        return stage_maps(self.backbone, self.stages, self._feature_stages, x)

    def pooled(self, maps: Sequence[Tensor]) -> Tensor:
        """Pool feature maps to features, (N, F)."""
        features = [self.features(one) for one in maps]
        return features[0] if len(features) == 1 else torch.cat(features, dim=1)

    def _outputs(self, features: Tensor) -> Outputs:
        embeddings = None if self.embedding is None else normalize(self.embedding(features).float(), dim=1)
        attention = None if self.attention is None else self.attention(features).float()
        return Outputs(self.head(features), embeddings, features, attention)

    @cached_property
    def stages(self) -> Stages:
        """The stages of the backbone."""
        return find_stages(self.backbone)

    def _measure_stages(self) -> int:
        """Return the number of channels of the feature maps that are joined."""
        check_feature_stages(self.stages, self._feature_stages, self._name)
        training, x = self.training, torch.zeros(1, first_convolution(self.backbone).in_channels, 128, 128)
        with torch.inference_mode():
            maps = stage_maps(self.backbone.eval(), self.stages, self._feature_stages, x)
        self.backbone.train(training)
        return sum(one.shape[1] for one in maps)

    def part_of(self, name: str) -> str:
        """Return which part of the network a parameter belongs to: ``"heads"``, ``"stem"``, ``"stage1"`` and so on."""
        if name.startswith("adapter."):
            return "stem"
        if not name.startswith("backbone.") or "cbam" in name:
            return "heads"
        stage = self.stages.of_parameters[name.removeprefix("backbone.")]
        return f"stage{stage}" if stage else "stem"

    @property
    def starts_pretrained(self) -> bool:
        """Whether the backbone started from pretrained weights."""
        return bool(self._pretrained)

    def is_pretrained(self, name: str) -> bool:
        """Return whether a parameter of the backbone started from pretrained weights."""
        return name in self._pretrained

    def parameters_of(self, parts: Iterable[str]) -> set[str]:
        """Return the names of the parameters of some parts.

        Parameters
        ----------
        parts
            As in `classify.phases.Phase.trainable`.

        Raises
        ------
        UserError
            If the backbone has fewer stages.
        """
        names = {name for name, _ in self.named_parameters()}
        chosen = set[str]()
        for part in parts:
            if part == "all":
                chosen |= names
            elif part == "new":
                chosen |= {name for name in names if not self.is_pretrained(name)}
            elif part == "stages":
                chosen |= {name for name in names if self.part_of(name).startswith("stage")}
            elif part in ("heads", "stem") or int(part.removeprefix("stage")) <= self.stages.count:
                chosen |= {name for name in names if self.part_of(name) == part}
            else:
                raise UserError(
                    f"expected parts of {self._name} in classify.phases, which has {self.stages.count} stages, found"
                    f' "{part}"'
                )
        return chosen

    def train_only(self, names: Iterable[str]) -> None:
        """Freeze all parameters but those named."""
        trained = set(names)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name in trained)

    def train_mode(self) -> None:
        """Switch to training, in which the batch norms of frozen parts keep their statistics."""
        self.train()
        for module in self.modules():
            if isinstance(module, _BatchNorm) and module.affine and not module.weight.requires_grad:
                module.eval()

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


def _pretrained_names(backbone: nn.Sequential, *, stem_is_new: bool) -> frozenset[str]:
    """Return the parameters that start from pretrained weights: not those of attention, nor a stem of new channels."""
    first = {id(parameter) for parameter in first_convolution(backbone).parameters()} if stem_is_new else set()
    return frozenset(
        f"backbone.{name}" for name, p in backbone.named_parameters() if "cbam" not in name and id(p) not in first
    )


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


def check_crop_size(side_px: int, size_px: int) -> None:
    """Check that random crops fit into the crops.

    Raises
    ------
    UserError
        If they do not.
    """
    if side_px > size_px:
        raise UserError(f"expected classify.random_crop_px of at most {size_px}, the crops' side, found {side_px}")


def check_input(network: Network, channels: int, side_px: int, training_px: Iterable[int] = ()) -> None:
    """Check that the network accepts crops of a size.

    Parameters
    ----------
    network
        The network.
    channels
        Number of channels.
    side_px
        Side of the crops.
    training_px
        Sides that they are resized to in training, 0 for their own.

    Raises
    ------
    UserError
        If the crops are too small for its backbone.
    """
    training, own = network.training, network.input_px
    try:
        for side in {own, *training_px}:
            network.input_px = side
            with torch.inference_mode():
                pixels = torch.zeros(1, channels, side_px, side_px, dtype=torch.uint8)
                network.eval()(pixels, _flat_levels(channels))
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"expected crops large enough for the backbone, found {side or side_px} px (set classify.input_px;"
            f" {reason})"
        ) from None
    finally:
        network.input_px = own
        network.train(training)


def _flat_levels(channels: int) -> Tensor:
    return torch.stack([torch.zeros(1, channels), torch.ones(1, channels)], dim=1)
