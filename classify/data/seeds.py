"""Random seeds as a pure function of where they are used, so that a resumed training equals an uninterrupted one."""

from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

_STEP: Final = np.uint64(0x9E3779B97F4A7C15)


class Purpose(IntEnum):
    """Purpose of a random draw; draws for different purposes are independent."""

    WEIGHTS = 0
    ORDER = 1
    AUGMENTATION = 2
    PRETRAINING = 3
    DROPOUT = 4
    MIXING = 5


def derive_seed(purpose: Purpose, seed: int, fold: int, epoch: int = 0, row: int = 0) -> int:
    """Return the 32-bit seed of one random draw.

    Parameters
    ----------
    purpose
        Purpose of the draw.
    seed
        The recipe's seed.
    fold, epoch, row
        Where the draw is used, from 0; `row` is the crop's position in the table of crops.
    """
    return int(np.random.SeedSequence((int(purpose), seed, fold, epoch, row)).generate_state(1)[0])


def row_uniforms(
    purpose: Purpose, seed: int, fold: int, epoch: int, rows: NDArray[np.int64], n: int
) -> NDArray[np.float64]:
    """Return `n` uniform random numbers for each row, a function of (purpose, seed, fold, epoch, row) alone.

    They are the outputs of SplitMix64 (Steele et al. 2014, https://doi.org/10.1145/2660193.2660195), one generator per
    row, for all rows at once: a generator object per row takes longer than what the numbers are used for.

    Parameters
    ----------
    purpose, seed, fold, epoch
        As for `derive_seed`.
    rows
        Positions in the table of crops, shape (N,).
    n
        Numbers per row.

    Returns
    -------
    ndarray
        Shape (N, n), in [0, 1).
    """
    state = np.random.SeedSequence((int(purpose), seed, fold, epoch)).generate_state(1, np.uint64)
    starts = _mixed(rows.astype(np.uint64) * _STEP + state)
    bits = _mixed(starts[:, None] + np.arange(1, n + 1, dtype=np.uint64) * _STEP)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mixed(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
