"""Random seeds as a pure function of where they are used, so that a resumed training equals an uninterrupted one."""

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """Purpose of a random draw; draws for different purposes are independent."""

    WEIGHTS = 0
    ORDER = 1
    AUGMENTATION = 2


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
