"""Random draws as a pure function of where they are used, so that a resumed training ends like an uninterrupted one."""

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What a draw is for; draws for different purposes are independent."""

    WEIGHTS = 0
    ORDER = 1
    AUGMENTATION = 2


def derive_seed(purpose: Purpose, seed: int, fold: int, epoch: int = 0, row: int = 0) -> int:
    """Return the 32-bit seed of one draw.

    Parameters
    ----------
    purpose
        What it is for.
    seed
        The recipe's seed.
    fold, epoch, row
        Where it is used, from 0; `row` is the crop's position in the crop table.
    """
    return int(np.random.SeedSequence((int(purpose), seed, fold, epoch, row)).generate_state(1)[0])
