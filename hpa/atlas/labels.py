"""Label sets of antibodies, and the choice of the cells that carry each label of their image."""

from collections.abc import Collection
from functools import cache
from importlib.resources import files
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hpa.atlas.geometry.field import Population
from hpa.atlas.patterns.catalogue import BRIDGE, SPINDLE, can_carry
from hpa.vocabulary import HPA28

MEAN_SHARES: Final[dict[int, float]] = {
    0: 0.83, 1: 0.75, 2: 0.66, 3: 0.54, 4: 0.88, 5: 0.48, 6: 0.72, 7: 0.60, 8: 0.60, 9: 0.60, 10: 0.60, 11: 0.78,
    12: 0.68, 13: 0.60, 14: 0.65, 15: 0.60, 16: 0.90, 17: 0.90, 18: 0.40, 19: 0.40, 20: 0.60, 21: 0.76, 22: 0.72,
    23: 0.82, 24: 0.68, 25: 0.80, 26: 0.55, 27: 0.55,
}  # fmt: skip
"""Mean share of an image's cells that carry a class, from 5,090 hand-labelled cells. Only dividing cells can have
bridges and spindles, so nearly all of those carry them."""

FACTORS_BY_NUMBER: Final = (1.14, 1.14, 0.88, 0.85, 0.76)
"""Factor on the share for an image with 0, 1, 2, 3, and 4 or more labels."""

COMPENSATED_SHARE: Final = 0.4
"""Share of the cells without a label that are given one after all, in images with several labels."""

OFF_TARGET_SHARE: Final = 0.03
"""Share of cells that carry a class that their image does not have."""


@cache
def label_sets() -> tuple[tuple[tuple[int, ...], ...], NDArray[np.float64]]:
    """Return the label sets of the Kaggle 2018 training table and the number of images with each."""
    table = pd.read_csv(str(files("hpa.atlas") / "label_sets.csv"), dtype={"target": str})
    return tuple(HPA28.parse(target) for target in table.target), table.images.to_numpy(np.float64)


def sample_shares(rng: np.random.Generator, target: tuple[int, ...], penetrance: float = 1.0) -> tuple[float, ...]:
    """Draw the share of cells that carry each label of an image.

    The share is 0, 1 or a beta variate in between. The probabilities depend on the mean share of the class, as in 320
    real pairs of image and label, of which 4% had no carrier, 16% had carriers in fewer than a fifth of the cells, and
    34% in all cells. `penetrance` multiplies the mean: 1 is realistic, smaller values make the data harder.
    """
    shares = []
    for label in target:
        mean = min(MEAN_SHARES[label] * FACTORS_BY_NUMBER[min(len(target), 4)] * penetrance, 0.96)
        every, none = mean**3.2, 0.12 * (1 - mean)
        rest = float(np.clip((mean - every) / (1 - every - none), 0.05, 0.95))
        fate = rng.random()
        shares.append(
            1.0 if fate < every else 0.0 if fate < every + none else float(rng.beta(1.8 * rest, 1.8 * (1 - rest)))
        )
    return tuple(shares)


def draw_carriers(
    rng: np.random.Generator,
    cells: Population,
    target: tuple[int, ...],
    shares: tuple[float, ...],
    classes: Collection[int] = range(len(HPA28)),
) -> NDArray[np.bool_]:
    """Draw which cells carry which class.

    Parameters
    ----------
    rng
        Random number generator.
    cells
        The N cells.
    target
        Class indices of the image.
    shares
        Share of the cells that carry each class of `target` (`sample_shares`).
    classes
        Classes that cells may carry although `target` has not got them.

    Returns
    -------
    ndarray
        Whether each cell carries each class, bool (N, 28).
    """
    carried = np.zeros((len(cells), len(HPA28)), bool)
    for label, share in zip(target, shares, strict=True):
        carried[:, label] = (rng.random(len(cells)) < share) & can_carry(label, cells)
    if len(target) > 1:
        # labels of one image compensate for each other: fewer cells have none than if labels were independent
        bare = np.flatnonzero(~carried.any(axis=1) & (rng.random(len(cells)) < COMPENSATED_SHARE))
        weight = np.array(shares) + 1e-3
        for index, label in zip(bare, rng.choice(target, len(bare), p=weight / weight.sum()), strict=True):
            carried[index, label] = can_carry(int(label), cells)[index]
    if target:
        sets, images = label_sets()
        for index in np.flatnonzero(rng.random(len(cells)) < OFF_TARGET_SHARE):
            other = sets[int(rng.choice(len(sets), p=images / images.sum()))][0]
            if other in classes and other not in target and other not in (BRIDGE, SPINDLE):
                carried[index] = False
                carried[index, other] = True
    for index in np.flatnonzero(carried[:, BRIDGE]):
        carried[cells.sister[index], BRIDGE] = True
    return carried
