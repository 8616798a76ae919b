"""Attention: within a feature map (CBAM), and over the crops of an image."""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from hpa.errors import UserError


class Cbam(nn.Module):
    """Convolutional block attention (Woo et al. 2018, https://arxiv.org/abs/1807.06521): channels, then places.

    Parameters
    ----------
    channels
        F of the feature map.
    reduction
        By how much the hidden layer of the channel attention is narrower.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(channels // reduction, 1)
        self.channel = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, channels))
        self.place = nn.Conv2d(2, 1, kernel_size=7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Weigh a feature map, shape (N, F, h, w)."""
        by_channel = torch.sigmoid(self.channel(x.mean((2, 3))) + self.channel(x.amax((2, 3))))
        x = x * by_channel[:, :, None, None]
        by_place = torch.sigmoid(self.place(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], dim=1)))
        return x * by_place


def with_cbam(backbone: nn.Sequential) -> nn.Sequential:
    """Return the backbone with a `Cbam` after the last layer of every resolution, from a quarter of the input's on.

    These are the stages of a ResNet, the blocks of a DenseNet, and their likes. A backbone that cannot be taken apart
    (timm's) has one, at its end.

    Raises
    ------
    UserError
        If the backbone has no feature maps between its layers.
    """
    links = _flat(backbone)
    shapes: list[tuple[int, ...]] = []
    training = backbone.training
    with torch.inference_mode():
        x = torch.zeros(1, 3, 128, 128)
        for link in links.values():
            x = link.eval()(x)
            shapes.append(tuple(x.shape))
    backbone.train(training)
    if any(len(shape) != 4 for shape in shapes) or shapes[-1][1] < shapes[-1][2]:
        raise UserError("expected feature maps (N, F, h, w) in a backbone with attention, found others")
    chain: OrderedDict[str, nn.Module] = OrderedDict()
    for i, (name, link) in enumerate(links.items()):
        chain[name] = link
        last = i + 1 == len(shapes) or shapes[i + 1][2] < shapes[i][2]
        if last and (shapes[i][2] <= 128 // 4 or i + 1 == len(shapes)):
            chain[f"cbam{i}"] = Cbam(shapes[i][1])
    return nn.Sequential(chain).train(training)


def _flat(backbone: nn.Sequential) -> OrderedDict[str, nn.Module]:
    """Take a chain apart, and the chain ``features`` in it; a name of a module has no dot."""
    links: OrderedDict[str, nn.Module] = OrderedDict()
    for name, child in backbone.named_children():
        if isinstance(child, nn.Sequential) and name in ("features", "layers", "trunk_output"):
            links |= {f"{name}_{inner}": link for inner, link in child.named_children()}
        else:
            links[name] = child
    return links


class GatedAttention(nn.Module):
    """How much each crop counts among those of its image (Ilse et al. 2018, https://arxiv.org/abs/1802.04712).

    Parameters
    ----------
    width
        Number of features.
    hidden
        Width of the gate.
    """

    def __init__(self, width: int, hidden: int = 64) -> None:
        super().__init__()
        self.what = nn.Linear(width, hidden)
        self.gate = nn.Linear(width, hidden)
        self.score = nn.Linear(hidden, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Return a score for each of N crops, shape (N,); a softmax over a bag makes them weights."""
        scores: Tensor = self.score(torch.tanh(self.what(features)) * torch.sigmoid(self.gate(features)))
        return scores[:, 0]
