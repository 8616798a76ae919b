"""Simulate crop probabilities with known truth, with the label sets and class counts of the Kaggle 2018 table.

Images of one antibody share their labels, and each cell shows them or not. Several models score the cells. Some of
their errors are common to all models (per antibody, image and cell), others are their own, partly per image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from hpa.atlas.labels import MEAN_SHARES, label_sets
from hpa.vocabulary import HPA28

K: Final = len(HPA28)
_IMAGES_OF_AN_ANTIBODY: Final = 3.0
_CELLS: Final = 13.0


@dataclass(frozen=True)
class Images:
    """Images with known truth, and the part of the logits that all models share.

    Parameters
    ----------
    targets
        Shape (N, 28), the true labels of each image.
    groups
        Shape (N,), the antibody of each image.
    image_of
        Shape (n,), the image of each cell, in ascending order.
    first_rows
        Shape (N,), the first cell of each image.
    logits
        Shape (n, 28), float32: the logits shared by all models.
    """

    targets: NDArray[np.bool_]
    groups: NDArray[np.int32]
    image_of: NDArray[np.int64]
    first_rows: NDArray[np.intp]
    logits: NDArray[np.float32]


def draw_images(
    n: int, skill: float, rng: np.random.Generator, shift: float = 0.0, unlearned: Sequence[int] = ()
) -> Images:
    """Draw images and their cells.

    Parameters
    ----------
    n
        Number of images.
    skill
        Separation between cells that show a class and other cells; 1 is very good.
    rng
        Source of all random draws.
    shift
        Standard deviation of the log ratio between class frequencies and those of the table.
    unlearned
        Classes whose scores do not depend on whether a cell shows them.
    """
    sets, counts = label_sets()
    hot = HPA28.multi_hot(sets)
    prior = (hot * counts[:, None]).sum(axis=0) / counts.sum()
    weights = counts * np.exp(hot @ rng.normal(0, shift, K)) if shift else counts
    groups = np.repeat(np.arange(n), rng.geometric(1 / _IMAGES_OF_AN_ANTIBODY, n))[:n].astype(np.int32)
    drawn = rng.choice(len(sets), size=n, p=weights / weights.sum())
    targets = hot[drawn[groups]]
    n_cells = np.clip(np.exp(rng.normal(np.log(_CELLS), 0.5, n)), 2, 80).astype(np.int64)
    image_of = np.repeat(np.arange(n), n_cells)
    mean_shares = np.array([MEAN_SHARES[c] for c in range(K)])
    shares = rng.beta(3 * mean_shares, 3 * (1 - mean_shares), (n, K)).astype(np.float32)
    carriers = targets[image_of] & (rng.random((len(image_of), K), dtype=np.float32) < shares[image_of])
    # Models learn frequent classes better.
    distance = skill * np.linspace(4.0, 6.0, K)[np.argsort(np.argsort(prior))]
    distance[list(unlearned)] = 0
    base = 0.8 * logit(prior) - 2.0
    shared = 0.6 * _normal(rng, n)[groups] + 0.5 * _normal(rng, n)
    logits = (base + distance * carriers).astype(np.float32) + shared[image_of] + 0.6 * _normal(rng, len(image_of))
    return Images(targets, groups, image_of, np.append(0, np.cumsum(n_cells)[:-1]), logits)


def score_cells(images: Images, bias: NDArray[np.float64], own: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return the probabilities that one model assigns to every cell, shape (n, 28), float32 within 0..1.

    Parameters
    ----------
    images
        The images (`draw_images`).
    bias
        Bias of the model, shape (28,), or (N, 28) for a different one per image.
    own
        Size of the model's own errors relative to the shared ones.
    rng
        Source of these errors.
    """
    n = len(images.targets)
    error = (own * bias).astype(np.float32) + 0.5 * own * (_normal(rng, n)[images.groups] + _normal(rng, n))
    logits = images.logits + error[images.image_of] + np.float32(0.6 * own) * _normal(rng, len(images.image_of))
    probabilities: NDArray[np.float32] = expit(logits).astype(np.float32)
    return probabilities


def _normal(rng: np.random.Generator, n: int) -> NDArray[np.float32]:
    return rng.standard_normal((n, K), dtype=np.float32)
