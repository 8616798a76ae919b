"""SubCell's vision transformer (Gupta et al. 2024, https://doi.org/10.1101/2024.12.06.627299) as a backbone.

Its weights are the authors' (https://github.com/CellProfiling/SubCellPortable, under their terms) and are not shipped:
the recipe names the file. A file holds an encoder, ViT-B/16 under the names of Hugging Face's transformers, and a gated
attention that pools its tokens to 1,536 features. The authors' classifiers, which come in files of their own, are not
read: linear heads on the features learn the labels at hand.
"""

from collections import OrderedDict
from functools import partial
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, interpolate

from hpa.errors import UserError

NAME: Final = "subcell"
INPUT_PX: Final = 448
"""Side of the images that SubCell was trained on."""
_WIDTH: Final = 768
_DEPTH: Final = 12
_PATCH_PX: Final = 16
_HIDDEN: Final = 512
_QUERIES: Final = 2
_BLOCK: Final = {
    "norm1": "layernorm_before",
    "attn.proj": "attention.output.dense",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
"""Parts of a block: timm's names and the published ones; queries, keys and values are one matrix in timm."""
_POOL: Final = {"value": "attention_v.1", "gate": "attention_u.1", "score": "attention"}


class SubCell(nn.Module):
    """Vision transformer with gated attention over its tokens: images to 1,536 features.

    Two attentions over all tokens, the class token included, give one mean of the tokens each, which are laid end to
    end. The score of a token x is ``w (tanh(V x) * gelu(U x))``.

    Parameters
    ----------
    depth
        Number of blocks; the published models have 12.
    """

    def __init__(self, depth: int = _DEPTH) -> None:
        try:
            from timm.models.vision_transformer import VisionTransformer
        except ImportError:
            raise UserError("expected timm to be installed for `subcell` (the extra cellwise[timm])") from None
        super().__init__()
        self.encoder = VisionTransformer(
            img_size=INPUT_PX,
            patch_size=_PATCH_PX,
            num_classes=0,
            global_pool="",
            embed_dim=_WIDTH,
            depth=depth,
            num_heads=12,
            norm_layer=partial(nn.LayerNorm, eps=1e-12),
            dynamic_img_size=True,
        )
        self.value = nn.Linear(_WIDTH, _HIDDEN)
        self.gate = nn.Linear(_WIDTH, _HIDDEN)
        self.score = nn.Linear(_HIDDEN, _QUERIES)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of images (N, C, H, W) as a feature map of one position, (N, 1536, 1, 1)."""
        tokens: Tensor = self.encoder.forward_features(x)
        scores: Tensor = self.score(torch.tanh(self.value(tokens)) * gelu(self.gate(tokens)))
        pooled: Tensor = scores.softmax(dim=1).transpose(1, 2) @ tokens
        return pooled.flatten(1)[:, :, None, None]


def new_subcell(depth: int = _DEPTH) -> nn.Sequential:
    """Return the backbone with random weights and three input channels."""
    return nn.Sequential(OrderedDict(model=SubCell(depth)))


def translate(state: dict[str, Tensor], depth: int = _DEPTH) -> dict[str, Tensor]:
    """Turn published weights into those of `new_subcell`.

    Position embeddings of another size are interpolated, as the authors do. Weights of other parts are ignored.

    Parameters
    ----------
    state
        Tensors by their published names.
    depth
        Number of blocks.

    Returns
    -------
    dict
        Tensors by the backbone's names; the first convolution has the channels of the file.

    Raises
    ------
    UserError
        If the file lacks some of the weights, or they have another shape.
    """
    missing = [name for name in published_names(depth) if name not in state]
    if missing:
        total = len(published_names(depth))
        raise UserError(
            f"expected SubCell's weights, found {len(missing)} of {total} missing ({', '.join(missing[:3])})"
        )
    found = {
        "cls_token": state["encoder.embeddings.cls_token"],
        "pos_embed": _resized(state["encoder.embeddings.position_embeddings"]),
    }
    for ending in ("weight", "bias"):
        found[f"patch_embed.proj.{ending}"] = state[f"encoder.embeddings.patch_embeddings.projection.{ending}"]
        found[f"norm.{ending}"] = state[f"encoder.layernorm.{ending}"]
        for i in range(depth):
            theirs = f"encoder.encoder.layer.{i}."
            for own, name in _BLOCK.items():
                found[f"blocks.{i}.{own}.{ending}"] = state[f"{theirs}{name}.{ending}"]
            parts = [state[f"{theirs}attention.attention.{part}.{ending}"] for part in ("query", "key", "value")]
            found[f"blocks.{i}.attn.qkv.{ending}"] = torch.cat(parts)
    translated = {f"model.encoder.{name}": value for name, value in found.items()}
    for own, name in _POOL.items():
        for ending in ("weight", "bias"):
            translated[f"model.{own}.{ending}"] = state[f"pool_model.{name}.{ending}"]
    return translated


def published_names(depth: int = _DEPTH) -> list[str]:
    """Return the published names of all weights that the backbone needs."""
    pairs = ["encoder.embeddings.patch_embeddings.projection", "encoder.layernorm"]
    pairs += [f"pool_model.{name}" for name in _POOL.values()]
    for i in range(depth):
        block = f"encoder.encoder.layer.{i}"
        pairs += [f"{block}.{name}" for name in _BLOCK.values()]
        pairs += [f"{block}.attention.attention.{part}" for part in ("query", "key", "value")]
    single = ["encoder.embeddings.cls_token", "encoder.embeddings.position_embeddings"]
    return single + [f"{name}.{ending}" for name in pairs for ending in ("weight", "bias")]


def _resized(positions: Tensor) -> Tensor:
    """Interpolate position embeddings, shape (1, 1 + g * g, F), to the grid of images of `INPUT_PX`."""
    grid = INPUT_PX // _PATCH_PX
    side = round(max(positions.shape[1] - 1, 0) ** 0.5) if positions.ndim == 3 else 0
    if side == 0 or positions.shape != (1, 1 + side * side, _WIDTH):
        raise UserError(
            f"expected position embeddings of a square grid in SubCell's weights, found {tuple(positions.shape)}"
        )
    if side == grid:
        return positions
    patches = positions[:, 1:].float().reshape(1, side, side, _WIDTH).permute(0, 3, 1, 2)
    patches = interpolate(patches, (grid, grid), mode="bicubic", align_corners=False)
    return torch.cat([positions[:, :1].float(), patches.flatten(2).transpose(1, 2)], dim=1)
