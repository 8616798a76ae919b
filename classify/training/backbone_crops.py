"""The batches of a pretraining: drawn cells, varied, with channels left out and in several sizes."""

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from classify.data.seeds import Purpose, row_uniforms
from classify.data.variation import turn, vary
from classify.training.rounds import Cells
from crops.store import apply_outside_cell
from hpa.channels import CHANNELS

_FULL_SHARE: Final = 0.5  # share of crops that keep all their channels
_SIZES: Final = ((0.88, 1.0), (0.96, 1.5), (1.0, 2.0))  # cumulative share of batches, and factor of their side
_OUTSIDE: Final = ((0.05, "zero"), (0.15, "dim"))  # cumulative share of crops without or with dim surroundings


def training_crops(cells: Cells, rows: NDArray[np.int64], seed: int, step: int) -> Tensor:
    """Return a batch of varied crops: half with standard, half with strong augmentation, and some without channels.

    Parameters
    ----------
    cells
        The cells.
    rows
        Which of them.
    seed, step
        Seed of the training, and number of the step; the batch is a function of these.

    Returns
    -------
    Tensor
        Shape (len(rows), 4, s, s): uint8 with s = S, or float32 where the crops are enlarged.
    """
    draws = row_uniforms(Purpose.PRETRAINING, seed, 0, step, np.arange(len(rows)), 128)
    pixels = cells.pixels[rows]
    before = 0.0
    for share, rule in _OUTSIDE:
        some = np.flatnonzero((draws[:, -1] >= before) & (draws[:, -1] < share))
        pixels[some] = apply_outside_cell(pixels[some], cells.masks(rows[some]), rule)  # type: ignore[arg-type]
        before = share
    pixels = turn(pixels, draws)
    half = len(rows) // 2
    vary(pixels[:half], draws[:half], "standard")
    vary(pixels[half:], draws[half:], "strong")
    pixels[drop_channels(draws[:, -12:-2])] = 0
    crops = torch.from_numpy(pixels)
    factor = next(factor for share, factor in _SIZES if draws[0, -2] < share)
    if factor == 1:
        return crops
    return interpolate(crops.float(), scale_factor=factor, mode="bilinear", align_corners=False)


def drop_channels(draws: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Choose the channels that crops go without: never the protein, and none in half of the crops.

    The others get one of the eight subsets of the reference channels, each as often.

    Parameters
    ----------
    draws
        Uniform random numbers, shape (N, at least 4).

    Returns
    -------
    ndarray
        Shape (N, 4), True where a channel is dropped, in the order of `hpa.channels.CHANNELS`.
    """
    dropped: NDArray[np.bool_] = (draws[:, :4] < 0.5) & (draws[:, 4:5] >= _FULL_SHARE)
    dropped[:, CHANNELS.index("green")] = False
    return dropped
