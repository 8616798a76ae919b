"""Grad-CAM of crops; the only module that imports grad-cam.

Grad-CAM (Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391) weighs the channels of a feature map by the mean
gradient of a class's logit, adds them, and keeps what is positive: where a crop speaks for the class. The map is the
deepest one with at least 7 places along a side, which is the last one of a ResNet for images of 224 px, for which the
method was made; of a crop of 64 px the last map would say in which quarter of it something is, at best.
"""

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from classify.network.model import Network
from classify.network.parts import layers
from hpa.errors import UserError

_BATCH: Final = 32
_LEAST_PLACES: Final = 7


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
    if not len(pixels):
        return np.zeros((0, *pixels.shape[2:]), dtype=np.float32)
    model = _Logits(network)
    if levels is not None:
        model.levels = torch.from_numpy(levels[:1]).to(network.head.weight.device)
    layer = _layer_to_explain(model, torch.from_numpy(pixels[:1]).to(network.head.weight.device))
    maps = []
    with GradCAM(model, [layer]) as cam:
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


def _layer_to_explain(model: _Logits, pixels: Tensor) -> nn.Module:
    """Return the deepest layer whose feature map has enough places; the last map where no layer can be singled out."""
    sides: dict[nn.Module, int] = {}

    def measure(layer: nn.Module, _: object, output: Tensor) -> None:
        sides[layer] = output.shape[2] if isinstance(output, Tensor) and output.ndim == 4 else 0

    chain = [layer for _, layer in layers(model.network.backbone)]
    handles = [layer.register_forward_hook(measure) for layer in (*chain, model.last_map)]
    with torch.inference_mode():
        model(pixels)
    for handle in handles:
        handle.remove()
    if sides[model.last_map] >= _LEAST_PLACES:
        return model.last_map
    return next((layer for layer in reversed(chain) if sides.get(layer, 0) >= _LEAST_PLACES), model.last_map)
