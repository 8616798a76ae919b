"""From a feature map to features."""

import torch
from torch import Tensor, nn

from classify.config import Features

_SMALLEST = 1e-6


class FeaturePooling(nn.Module):
    """The average, the maximum, both, or the generalised mean over the places of a feature map.

    The generalised mean ``(mean x^p)^(1/p)`` with a learned p that starts at 3 is Radenović et al. 2018,
    https://arxiv.org/abs/1711.02512; p = 1 is the average, infinity the maximum.

    Parameters
    ----------
    kind
        Which.
    """

    def __init__(self, kind: Features) -> None:
        super().__init__()
        self.kind = kind
        self.average = nn.AdaptiveAvgPool2d(1)
        self.p = nn.Parameter(torch.tensor(3.0)) if kind == "gem" else None

    def width(self, channels: int) -> int:
        """Return the number of features made of a map of `channels`."""
        return 2 * channels if self.kind == "both" else channels

    def forward(self, x: Tensor) -> Tensor:
        """Pool (N, F, h, w) to (N, `width(F)`)."""
        if self.p is not None:
            powers = x.float().clamp(min=_SMALLEST).pow(self.p)
            return powers.mean((2, 3)).pow(1 / self.p)
        parts = []
        if self.kind in ("average", "both"):
            parts.append(torch.flatten(self.average(x), 1))
        if self.kind in ("maximum", "both"):
            parts.append(x.amax((2, 3)))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
