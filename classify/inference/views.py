"""Test-time views of crops: turned, mirrored, rescaled, or cut, and how their outputs are combined."""

from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize, pad

from classify.config import ClassifySection, ViewKind
from classify.network.model import Outputs

_ORDER: Final[tuple[ViewKind, ...]] = ("scales", "five_crops", "flips", "dihedral")


def scored_views(pixels: Tensor, section: ClassifySection) -> list[Tensor]:
    """Return the views of crops that the recipe scores.

    Several kinds are combined: of two scales and two flips, every scale is flipped.

    Parameters
    ----------
    pixels
        Shape (N, C, S, S), uint8.
    section
        Recipe section: ``test_views``, and which views.

    Returns
    -------
    list of Tensor
        Views of shape (N, C, V, V), with V less than S for five crops; the crops themselves if there is one view.
    """
    views = [pixels]
    if section.test_views == "one":
        return views
    for kind in _ORDER:
        if kind in section.view_kinds:
            views = [one for view in views for one in _views(view, kind, section)]
    return views


def _views(pixels: Tensor, kind: ViewKind, section: ClassifySection) -> list[Tensor]:
    if kind == "scales":
        return [pixels, *(rescaled(pixels, scale) for scale in section.view_scales if scale != 1)]
    if kind == "five_crops":
        return five_crops(pixels, five_crop_px(section, pixels.shape[2]))
    if kind == "flips":
        return [pixels, pixels.flip(3), pixels.flip(2), pixels.flip(2, 3)]
    return dihedral(pixels)


def dihedral(pixels: Tensor) -> list[Tensor]:
    """Return the eight views of crops of shape (N, C, S, S): four turns, then their mirror images."""
    turned = [pixels, *(torch.rot90(pixels, k, (2, 3)) for k in (1, 2, 3))]
    return turned + [view.flip(3) for view in turned]


def five_crop_px(section: ClassifySection, size_px: int) -> int:
    """Return the side of the five crops of a crop of a side."""
    return max(1, round(section.view_side * size_px))


def five_crops(pixels: Tensor, side_px: int) -> list[Tensor]:
    """Return the four corners and the centre of crops of shape (N, C, S, S), at their own resolution."""
    rest = pixels.shape[2] - side_px
    corners = [(0, 0), (0, rest), (rest, 0), (rest, rest), (rest // 2, rest // 2)]
    return [pixels[:, :, row : row + side_px, col : col + side_px] for row, col in corners]


def rescaled(pixels: Tensor, scale: float) -> Tensor:
    """Enlarge or shrink crops of shape (N, C, S, S), uint8, about their centre; what is missing is black.

    The shape stays, as in the augmentation of training crops.
    """
    side = pixels.shape[2]
    size = max(1, round(side * scale))
    resized = interpolate(pixels.float(), (size, size), mode="bilinear", antialias=True, align_corners=False)
    before = abs(size - side) // 2
    if size > side:
        resized = resized[:, :, before : before + side, before : before + side]
    else:
        after = side - size - before
        resized = pad(resized, (before, after, before, after))
    return resized.round().clamp(0, 255).to(pixels.dtype)


def predict_views(
    network: Callable[[Tensor], Outputs], pixels: Tensor, section: ClassifySection
) -> tuple[Outputs, Tensor]:
    """Run a network on crops and on the views that the recipe scores.

    Parameters
    ----------
    network
        Function from pixels to float32 outputs.
    pixels
        Shape (N, C, S, S).
    section
        Recipe section: ``test_views`` is ``"one"``, or how the probabilities of the views are combined.

    Returns
    -------
    outputs
        Logits of the crops as they are; features, embeddings and attention averaged over the views.
    probabilities
        Shape (N, K).
    """
    outputs = network(pixels)
    if section.test_views == "one":
        return outputs, torch.sigmoid(outputs.logits)
    every = [outputs if view is pixels else network(view) for view in scored_views(pixels, section)]
    stacked = torch.stack([torch.sigmoid(one.logits) for one in every])
    probabilities = stacked.mean(0) if section.test_views == "mean" else stacked.amax(0)
    embeddings = None
    if outputs.embeddings is not None:
        embeddings = normalize(_mean([one.embeddings for one in every]), dim=1)
    attention = None if outputs.attention is None else _mean([one.attention for one in every])
    return Outputs(outputs.logits, embeddings, _mean([one.features for one in every]), attention), probabilities


def _mean(parts: Sequence[Tensor | None]) -> Tensor:
    return torch.stack([part for part in parts if part is not None]).mean(0)
