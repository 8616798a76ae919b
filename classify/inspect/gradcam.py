"""Grad-CAM of crops; the only module that imports grad-cam.

Grad-CAM (Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391) weighs the channels of the last feature map by the
mean gradient of a class's logit, adds them, and keeps what is positive: where a crop speaks for the class.
"""

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from classify.network.model import Network
from hpa.errors import UserError

_BATCH: Final = 32


class _Logits(nn.Module):
    """A network as a function from pixels to logits, with the last feature map as the output of a module.

    Parameters
    ----------
    network
        The network.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.last_map = nn.Identity()
        self.levels: Tensor | None = None

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the logits of crops, shape (N, K)."""
        *others, last = self.network.feature_maps(self.network.prepare(pixels, self.levels))
        return self.network.outputs(self.network.pooled([*others, self.last_map(last)])).logits.float()


def class_maps(
    network: Network, pixels: NDArray[np.uint8], levels: NDArray[np.float32] | None, class_number: int
) -> NDArray[np.float32]:
    """Return where crops speak for a class.

    Parameters
    ----------
    network
        The network, in evaluation mode.
    pixels
        Shape (n, C, S, S), uint8, the channels that the network sees.
    levels
        `classify.data.normalisation.crop_levels` of these crops.
    class_number
        The class.

    Returns
    -------
    ndarray
        Shape (n, S, S), float32, 0 to 1: each crop is scaled to its own maximum, and 0 if nothing speaks for the class.

    Raises
    ------
    UserError
        If grad-cam is not installed.
    """
    try:
        from pytorch_grad_cam import GradCAM
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    except ImportError:
        raise UserError("expected grad-cam to be installed (the extra cellwise[explain]), found none") from None
    model = _Logits(network)
    maps = [np.zeros((0, *pixels.shape[2:]), dtype=np.float32)]
    with GradCAM(model, [model.last_map]) as cam:
        for start in range(0, len(pixels), _BATCH):
            part = slice(start, start + _BATCH)
            device = network.head.weight.device
            model.levels = None if levels is None else torch.from_numpy(levels[part]).to(device)
            targets = [ClassifierOutputTarget(class_number)] * len(pixels[part])
            # The input has a gradient because the parameters of a frozen backbone have none.
            given = torch.from_numpy(pixels[part]).float().requires_grad_()
            maps.append(np.asarray(cam(given, targets), dtype=np.float32))
    network.zero_grad(set_to_none=True)
    return np.concatenate(maps)
