"""The first convolution of a backbone, made to see 1 to 5 channels."""

import torch
from torch import Tensor, nn

from classify.config import Stem


def replace_stem(backbone: nn.Sequential, channels: int) -> nn.Conv2d:
    """Put a convolution of `channels` inputs, with random weights, in the place of the first; return it."""
    name, old = next((name, layer) for name, layer in backbone.named_modules() if isinstance(layer, nn.Conv2d))
    # timm pads some stems itself: such a convolution of its own kind keeps its kind.
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


def first_convolution(backbone: nn.Module) -> nn.Conv2d:
    """Return the first convolution."""
    return next(layer for layer in backbone.modules() if isinstance(layer, nn.Conv2d))


def widen_stem(filters: Tensor, channels: int, stem: Stem = "average") -> Tensor:
    """Turn RGB filters of shape (F, 3, h, w) into filters of shape (F, `channels`, h, w).

    With three channels or more the first three keep their filters; the others take the mean of the three
    (``"average"``) or those of red, green and blue in turn (``"copy"``). With fewer, every channel takes the mean, or
    the filters in turn.
    """
    if stem == "copy":
        return filters[:, [c % 3 for c in range(channels)]]
    mean = filters.mean(1, keepdim=True)
    kept = filters if channels >= 3 else filters[:, :0]
    return torch.cat([kept, mean.expand(-1, channels - kept.shape[1], -1, -1)], dim=1)


def new_adapter(channels: int) -> nn.Conv2d:
    """Make the 1x1 convolution before an untouched stem.

    It starts with the first three channels as they are, and the others, evenly, in all three; where there are fewer
    than three, each output is their mean.
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
