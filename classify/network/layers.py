"""Layers around a backbone: stems for 1 to 5 channels, CBAM, pooling of feature maps, and attention over bags."""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from classify.config import Features, Stem
from hpa.errors import UserError

_MIN_POWER_BASE = 1e-6


def first_convolution(backbone: nn.Module) -> nn.Conv2d:
    """Return the first convolution of a backbone."""
    return next(layer for layer in backbone.modules() if isinstance(layer, nn.Conv2d))


def replace_stem(backbone: nn.Sequential, channels: int) -> nn.Conv2d:
    """Replace the first convolution in place by one of `channels` inputs with random weights, and return it."""
    name, old = next((name, layer) for name, layer in backbone.named_modules() if isinstance(layer, nn.Conv2d))
    # Some stems of timm are a subclass that pads its input itself: the new convolution is of the same class.
    new = type(old)(
        channels,
        old.out_channels,
        kernel_size=old.kernel_size,  # type: ignore[arg-type]
        stride=old.stride,  # type: ignore[arg-type]
        padding=old.padding,  # type: ignore[arg-type]
        bias=old.bias is not None,
    )
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    parent, _, attribute = name.rpartition(".")
    setattr(backbone.get_submodule(parent), attribute, new)
    return new


def widen_stem(filters: Tensor, channels: int, stem: Stem = "average") -> Tensor:
    """Turn RGB filters of shape (F, 3, h, w) into filters of shape (F, `channels`, h, w).

    With three or more channels the first three keep their filters; further channels get the mean of the three
    (``"average"``) or the filters of red, green and blue in turn (``"copy"``). With fewer channels, every channel gets
    the mean, or the filters in turn.
    """
    if stem == "copy":
        return filters[:, [c % 3 for c in range(channels)]]
    mean = filters.mean(1, keepdim=True)
    rgb = filters if channels >= 3 else filters[:, :0]
    return torch.cat([rgb, mean.expand(-1, channels - rgb.shape[1], -1, -1)], dim=1)


def new_adapter(channels: int) -> nn.Conv2d:
    """Return a 1x1 convolution that turns `channels` into the three of an unchanged stem.

    It starts by passing the first three channels through and adding a third of every further channel to each output;
    with fewer than three channels, each output is their mean.
    """
    adapter = nn.Conv2d(channels, 3, kernel_size=1)
    with torch.no_grad():
        weight = torch.zeros(3, channels) if channels >= 3 else torch.full((3, channels), 1 / channels)
        if channels >= 3:
            weight[:, :3] = torch.eye(3)
            weight[:, 3:] = 1 / 3
        adapter.weight.copy_(weight[:, :, None, None])
        nn.init.zeros_(adapter.bias)  # type: ignore[arg-type]
    return adapter


class Cbam(nn.Module):
    """Convolutional block attention (Woo et al. 2018, https://arxiv.org/abs/1807.06521): channels, then positions.

    Parameters
    ----------
    channels
        Number of channels F of the feature map.
    reduction
        Factor by which the hidden layer of the channel attention is narrower than F.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(channels // reduction, 1)
        self.channel = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, channels))
        self.spatial = nn.Conv2d(2, 1, kernel_size=7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Weigh a feature map, shape (N, F, h, w)."""
        by_channel = torch.sigmoid(self.channel(x.mean((2, 3))) + self.channel(x.amax((2, 3))))
        x = x * by_channel[:, :, None, None]
        summary = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], dim=1)
        return x * torch.sigmoid(self.spatial(summary))


def add_cbam(backbone: nn.Sequential) -> nn.Sequential:
    """Return the backbone with a `Cbam` after the last layer of each resolution, from a quarter of the input's on.

    These are the stages of a ResNet, the blocks of a DenseNet, and so on. A backbone that is a single module (timm's)
    gets one block at its end.

    Raises
    ------
    UserError
        If the backbone has no feature maps between its layers.
    """
    layers = _flatten(backbone)
    shapes: list[tuple[int, ...]] = []
    training = backbone.training
    with torch.inference_mode():
        x = torch.zeros(1, 3, 128, 128)
        for layer in layers.values():
            x = layer.eval()(x)
            shapes.append(tuple(x.shape))
    backbone.train(training)
    if any(len(shape) != 4 for shape in shapes) or shapes[-1][1] < shapes[-1][2]:
        raise UserError("expected feature maps (N, F, h, w) in a backbone with attention, found others")
    chain: OrderedDict[str, nn.Module] = OrderedDict()
    for i, (name, layer) in enumerate(layers.items()):
        chain[name] = layer
        last = i + 1 == len(shapes) or shapes[i + 1][2] < shapes[i][2]
        if last and (shapes[i][2] <= 128 // 4 or i + 1 == len(shapes)):
            chain[f"cbam{i}"] = Cbam(shapes[i][1])
    return nn.Sequential(chain).train(training)


def _flatten(backbone: nn.Sequential) -> OrderedDict[str, nn.Module]:
    """Return the layers of a chain, those of a nested ``features`` one by one; module names may not contain a dot."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for name, child in backbone.named_children():
        if isinstance(child, nn.Sequential) and name in ("features", "layers", "trunk_output"):
            layers |= {f"{name}_{inner}": layer for inner, layer in child.named_children()}
        else:
            layers[name] = child
    return layers


class FeaturePooling(nn.Module):
    """Pooling of a feature map over its positions: average, maximum, both, or generalised mean.

    The generalised mean ``(mean x^p)^(1/p)`` with a learned p that starts at 3 is Radenović et al. 2018,
    https://arxiv.org/abs/1711.02512; p = 1 is the average, infinity the maximum.

    Parameters
    ----------
    kind
        One of `classify.config.Features`.
    """

    def __init__(self, kind: Features) -> None:
        super().__init__()
        self.kind = kind
        self.average = nn.AdaptiveAvgPool2d(1)
        self.p = nn.Parameter(torch.tensor(3.0)) if kind == "gem" else None

    def width(self, channels: int) -> int:
        """Return the number of features that a feature map of `channels` gives."""
        return 2 * channels if self.kind == "both" else channels

    def forward(self, x: Tensor) -> Tensor:
        """Pool (N, F, h, w) to (N, `width(F)`)."""
        if self.p is not None:
            powers = x.float().clamp(min=_MIN_POWER_BASE).pow(self.p)
            return powers.mean((2, 3)).pow(1 / self.p)
        parts = []
        if self.kind in ("average", "both"):
            parts.append(torch.flatten(self.average(x), 1))
        if self.kind in ("maximum", "both"):
            parts.append(x.amax((2, 3)))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


class GatedAttention(nn.Module):
    """Score of each crop among the crops of its image (Ilse et al. 2018, https://arxiv.org/abs/1802.04712).

    Parameters
    ----------
    width
        Number of features.
    hidden
        Width of the gate.
    """

    def __init__(self, width: int, hidden: int = 64) -> None:
        super().__init__()
        self.value = nn.Linear(width, hidden)
        self.gate = nn.Linear(width, hidden)
        self.score = nn.Linear(hidden, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Return the scores of N crops, shape (N,); a softmax over a bag turns them into weights."""
        scores: Tensor = self.score(torch.tanh(self.value(features)) * torch.sigmoid(self.gate(features)))
        return scores[:, 0]
