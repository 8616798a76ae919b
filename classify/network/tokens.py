"""Transformers of timm (ViT, DINOv2, Swin and the like) as backbones that end in a feature map."""

from typing import Any, Final, cast

from torch import Tensor, nn

ANY_SIZE: Final[tuple[dict[str, Any], ...]] = (
    {"dynamic_img_size": True, "dynamic_img_pad": True},
    {"dynamic_img_size": True},
    {"strict_img_size": False},
)
"""Options of timm's models for inputs of any size; a kind of model knows some of these or none, or ignores them."""


class TokenMap(nn.Module):
    """A transformer of timm whose patch tokens are laid out as a feature map.

    Class and register tokens are left out: pooling a feature map is a matter of the recipe's ``features``, and the mean
    of the patch tokens serves linear heads about as well as the class token does. Position embeddings are interpolated
    to the size of the input.

    Parameters
    ----------
    model
        A model of timm without its head, built for inputs of any size.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Return the feature map (N, F, h, w) of images (N, C, H, W)."""
        model = cast("Any", self.model)
        out: Tensor = model.forward_features(x)
        if out.ndim == 4:  # windowed transformers keep the layout, with the features last
            return out.permute(0, 3, 1, 2) if out.shape[3] == model.num_features else out
        patches = out[:, model.num_prefix_tokens :]
        height, width = model.patch_embed.dynamic_feat_size(x.shape[-2:])
        return patches.transpose(1, 2).reshape(len(x), -1, height, width)
