"""Crop probabilities with known truth, at the label sets and class counts of the Kaggle 2018 table.

Images of one antibody share their labels; cells carry them or not; several models score the cells, with errors that
they share (of the antibody, the image, the cell) and errors of their own, some of which hold for the whole image.
"""

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
    """Images with known truth, and what all models see of them.

    Parameters
    ----------
    targets
        Shape (N, 28).
    groups
        Shape (N,), the antibody of each.
    image_of
        Shape (n,), of every cell the image, rising.
    first_rows
        Shape (N,), where the cells of each image begin.
    logits
        Shape (n, 28), float32: what all models agree on.
    """

    targets: NDArray[np.bool_]
    groups: NDArray[np.int32]
    image_of: NDArray[np.int64]
    first_rows: NDArray[np.intp]
    logits: NDArray[np.float32]


def draw_images(n: int, skill: float, rng: np.random.Generator, shift: float = 0.0) -> Images:
    """Draw images and their cells.

    Parameters
    ----------
    n
        How many.
    skill
        How far carriers of a class lie from others; 1 is very good.
    rng
        Every draw is its.
    shift
        Standard deviation of the logarithm by which class frequencies differ from the table's.
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
    carried = np.array([MEAN_SHARES[c] for c in range(K)])
    shares = rng.beta(3 * carried, 3 * (1 - carried), (n, K)).astype(np.float32)
    carriers = targets[image_of] & (rng.random((len(image_of), K), dtype=np.float32) < shares[image_of])
    # Frequent classes are learned better.
    distance = skill * np.linspace(4.0, 6.0, K)[np.argsort(np.argsort(prior))]
    base = 0.8 * logit(prior) - 2.0
    shared = 0.6 * _normal(rng, n)[groups] + 0.5 * _normal(rng, n)
    logits = (base + distance * carriers).astype(np.float32) + shared[image_of] + 0.6 * _normal(rng, len(image_of))
    return Images(targets, groups, image_of, np.append(0, np.cumsum(n_cells)[:-1]), logits)


def score_cells(images: Images, bias: NDArray[np.float64], own: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return what one model says of every cell, shape (n, 28), float32 within 0..1.

    Parameters
    ----------
    images
        `draw_images`.
    bias
        Of the model, shape (28,), or (N, 28) where each image has another.
    own
        How large the model's own errors are beside those it shares.
    rng
        Draws these errors.
    """
    n = len(images.targets)
    error = (own * bias).astype(np.float32) + 0.5 * own * (_normal(rng, n)[images.groups] + _normal(rng, n))
    logits = images.logits + error[images.image_of] + np.float32(0.6 * own) * _normal(rng, len(images.image_of))
    probabilities: NDArray[np.float32] = expit(logits).astype(np.float32)
    return probabilities


def _normal(rng: np.random.Generator, n: int) -> NDArray[np.float32]:
    return rng.standard_normal((n, K), dtype=np.float32)
