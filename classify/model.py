"""The network: a torchvision backbone with a stem of C channels, a class head and an optional embedding head."""

from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn.functional import normalize
from torchvision.models import ResNet18_Weights, resnet18

from classify.config import ClassifySection
from hpa.errors import UserError

FLOOR: Final = 0.05
"""Added to a crop's own deviation: this share of the training folds', so that an empty channel stays nearly flat."""

_WEIGHTS: Final = ResNet18_Weights.IMAGENET1K_V1


class Outputs(NamedTuple):
    """What the network says of N crops."""

    logits: Tensor
    """Shape (N, K)."""
    embeddings: Tensor | None
    """Shape (N, D), rows of unit length; None without an embedding head."""


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
    """

    mean: Tensor
    std: Tensor

    def __init__(self, section: ClassifySection, channels: int, classes: int, mean: ArrayLike, std: ArrayLike) -> None:
        super().__init__()
        self._over_folds = section.normalise == "folds"
        self.backbone = resnet18()
        width = self.backbone.fc.in_features
        self.backbone.fc = nn.Identity()
        self.backbone.conv1 = nn.Conv2d(channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(self.backbone.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.head = nn.Linear(width, classes)
        self.embedding = nn.Linear(width, section.embedding_dim) if section.embedding_dim else None
        self.to(memory_format=torch.channels_last)  # bfloat16 is a third faster so, float32 as fast as before
        # Kept by the checkpoint under its own name, not among the weights.
        self.register_buffer("mean", _per_channel(mean), persistent=False)
        self.register_buffer("std", _per_channel(std), persistent=False)

    def forward(self, pixels: Tensor) -> Outputs:
        """Look at crops.

        Parameters
        ----------
        pixels
            Shape (N, C, H, W), uint8.
        """
        normalised = self._normalise(pixels.float())
        features = self.backbone(normalised.contiguous(memory_format=torch.channels_last))
        embeddings = None if self.embedding is None else normalize(self.embedding(features).float(), dim=1)
        return Outputs(self.head(features), embeddings)

    def _normalise(self, pixels: Tensor) -> Tensor:
        if self._over_folds:
            return (pixels - self.mean) / self.std
        variance, mean = torch.var_mean(pixels, dim=(2, 3), keepdim=True, correction=0)
        return (pixels - mean) / (variance.sqrt() + FLOOR * self.std)


def _per_channel(values: ArrayLike) -> Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.float32)).reshape(1, -1, 1, 1)


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
        If pretrained weights are asked for and not to be had.
    """
    share = np.asarray(frequencies, dtype=np.float64).clip(1e-4, 1 - 1e-4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network(section, np.size(mean), share.size, mean, std)
    if section.pretrained:
        load_pretrained(network)
    with torch.no_grad():
        network.head.bias.copy_(torch.from_numpy(np.log(share / (1 - share))))
    return network


def load_pretrained(network: Network) -> None:
    """Put ImageNet weights into the backbone.

    The stem is widened by `widen_stem`.

    Raises
    ------
    UserError
        If the weight file is neither on the disk nor to be downloaded, or is no such file.
    """
    state = _pretrained_state()
    state.pop("fc.weight", None)
    state.pop("fc.bias", None)
    try:
        state["conv1.weight"] = widen_stem(state["conv1.weight"], network.backbone.conv1.in_channels)
        network.backbone.load_state_dict(state)
    except (KeyError, RuntimeError) as error:
        raise UserError(
            f"expected ImageNet weights of a ResNet18 in {_weight_file()}, found {_first_line(error)}"
        ) from None


def widen_stem(filters: Tensor, channels: int) -> Tensor:
    """Turn RGB filters of shape (F, 3, h, w) into filters of shape (F, `channels`, h, w).

    With three channels or more the first three keep their filters and the others take the mean of the three; with
    fewer, every channel takes the mean.
    """
    mean = filters.mean(1, keepdim=True)
    kept = filters if channels >= 3 else filters[:, :0]
    return torch.cat([kept, mean.expand(-1, channels - kept.shape[1], -1, -1)], dim=1)


def _weight_file() -> Path:
    name: str = _WEIGHTS.url.rsplit("/", 1)[-1]
    return Path(torch.hub.get_dir()) / "checkpoints" / name


def _pretrained_state() -> dict[str, Any]:
    file = _weight_file()
    try:
        state: dict[str, Any] = torch.hub.load_state_dict_from_url(
            _WEIGHTS.url, map_location="cpu", progress=False, check_hash=True, weights_only=True
        )
    except OSError as error:
        raise UserError(
            f"expected the ImageNet weights {_WEIGHTS.url} to be downloadable or in {file} (put them there, or set"
            f" classify.pretrained = false), found neither ({_first_line(error)})"
        ) from None
    except Exception as error:  # a damaged file fails in as many ways as it can be damaged
        raise UserError(f"expected ImageNet weights in {file}, found a damaged file ({_first_line(error)})") from None
    return state


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
