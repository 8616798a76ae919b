"""The compact network: a small U-Net whose outputs follow Cellpose's conventions, with its weights on disk."""

import os
from pathlib import Path
from typing import Final

import torch
from torch import nn

from hpa.errors import UserError
from segment.network.cellpose import BaseModel

INPUTS: Final = 3
"""Number of input planes."""

ER, NUCLEUS_PLANE, MICROTUBULES = range(INPUTS)
"""Indices of the input planes: endoplasmic reticulum, nucleus, microtubules. A plane that an image lacks is 0."""

JOINED: Final = MICROTUBULES
"""Index of the input plane for the mean or the maximum of ER and microtubules; the ER plane is then 0."""

OUTPUTS: Final = 5
"""Number of output planes."""

NUCLEUS, NUCLEUS_CORE, FLOW_ROWS, FLOW_COLUMNS, CELL = range(OUTPUTS)
"""Indices of the output planes. The last three are those of Cellpose, whose functions ignore the first two."""

_PATCH_PX: Final = 2
_WIDTHS: Final = (64, 96, 128, 192)
_STYLE: Final = 256  # length of the style vector that Cellpose expects; here it is 0


class _Block(nn.Module):
    """Two 3 x 3 convolutions with a residual connection."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs))
        self.second = nn.Sequential(nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs))
        # Files of weights refer to the names of these layers.
        self.around = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H, W)."""
        result: torch.Tensor = self.activation(self.second(self.activation(self.first(x))) + self.around(x))
        return result


class CompactNetwork(BaseModel):  # type: ignore[misc] # Cellpose ships no types
    """U-Net of about 2.1 million parameters on patches of 2 x 2 pixels.

    It takes images in which a typical cell is 30 px wide (`segment.network.scale`). Working on patches keeps each
    layer small and wide, which suits CPUs. A fixed kernel unfolds the outputs to single pixels, as in Cellpose-SAM.

    Sources: Ronneberger et al., U-Net (2015); Stringer et al., Cellpose (2021).
    """

    backbone = "compact"

    def __init__(self) -> None:
        super().__init__()
        stem, *deeper = _WIDTHS
        self.stem = nn.Conv2d(2 * INPUTS, stem, 2 * _PATCH_PX + 2, stride=_PATCH_PX, padding=_PATCH_PX)
        self.down = nn.ModuleList([_Block(stem, stem)])
        self.up = nn.ModuleList()
        for above, width in zip(_WIDTHS[:-1], deeper, strict=True):
            self.down.append(_Block(above, width))
            self.up.append(_Block(width + above, above))
        self.out = nn.Conv2d(stem, OUTPUTS * _PATCH_PX**2, 1)
        unfold = torch.eye(OUTPUTS * _PATCH_PX**2).reshape(-1, OUTPUTS, _PATCH_PX, _PATCH_PX)
        self.W2 = nn.Parameter(unfold, requires_grad=False)  # Cellpose recognises models of version 4 by this name

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the outputs of shape (N, 5, H, W) and a style vector of zeros of shape (N, 256).

        Parameters
        ----------
        x
            Shape (N, 3, H, W): ER, nucleus, microtubules. H and W are multiples of 16.
        """
        # Neighbouring cells may differ twentyfold in brightness: on a log scale the same filters see the dim one too.
        x = torch.cat([x, torch.log1p(20 * x.clamp(min=0)) / 3], dim=1)
        x = self.stem(x.contiguous(memory_format=torch.channels_last))
        skips = []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else nn.functional.max_pool2d(x, 2))
            skips.append(x)
        for block, skip in zip(reversed(self.up), reversed(skips[:-1]), strict=True):
            x = block(torch.cat([nn.functional.interpolate(x, scale_factor=2.0), skip], dim=1))
        y = nn.functional.conv_transpose2d(self.out(x), self.W2.to(x.dtype), stride=_PATCH_PX)
        return y, torch.zeros((len(y), _STYLE), device=y.device)


def new_network(seed: int) -> CompactNetwork:
    """Return an untrained network whose weights depend only on `seed`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net: CompactNetwork = CompactNetwork().to(memory_format=torch.channels_last)
    return net


def check_weights_file(path: Path) -> None:
    """Check, before the training, that weights can be written to a file, with their record beside it.

    Raises
    ------
    UserError
        If they cannot.
    """
    if path.is_dir() or path.suffix == ".json":
        raise UserError(f"expected a file to write weights to, tuned.pt for one, found {path}; the record is a .json")
    path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"expected a folder that can be written, found {path.parent}")


def save_weights(net: CompactNetwork, path: Path) -> None:
    """Write the weights in half precision, which halves the file and changes no mask."""
    state = {key: value.half() if value.is_floating_point() else value for key, value in net.state_dict().items()}
    torch.save(state, path)


def load_compact(state: dict[str, torch.Tensor], device: torch.device) -> CompactNetwork:
    """Load a compact network for inference.

    Parameters
    ----------
    state
        Weights by parameter name.
    device
        Device to run it on.

    Raises
    ------
    ValueError
        If these are the weights of another network.
    """
    net = CompactNetwork()
    try:
        net.load_state_dict(state)
    except RuntimeError as error:  # torch lists every missing parameter on a line of its own
        raise ValueError(str(error).splitlines()[0]) from None
    net.to(device, memory_format=torch.channels_last).eval()
    return net
