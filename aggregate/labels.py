"""Known labels of a set of images, one record that fitting, scoring and drawing share."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Labels:
    """True classes of N images, with the groups and folds the images belong to.

    Parameters
    ----------
    targets
        Shape (N, K), bool: the image has the class. Pairs that are not `known` are set to False.
    known
        Shape (N, K), bool: whether the image has the class is known. Unknown pairs count nowhere.
    groups
        Shape (N,), int; images of one group (an antibody, say) are resampled and split together.
    folds
        Shape (N,), int; the fold that each image was held out in.

    Examples
    --------
    >>> labels = Labels.all_known(np.array([[True, False], [False, True], [True, True]]))
    >>> labels.take(np.array([2])).targets
    array([[ True,  True]])
    """

    targets: NDArray[np.bool_]
    known: NDArray[np.bool_]
    groups: NDArray[np.integer[Any]]
    folds: NDArray[np.integer[Any]]

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", self.targets & self.known)

    @classmethod
    def all_known(
        cls,
        targets: NDArray[np.bool_],
        groups: NDArray[np.integer[Any]] | None = None,
        folds: NDArray[np.integer[Any]] | None = None,
    ) -> Self:
        """Return labels in which every pair of image and class is known.

        Parameters
        ----------
        targets
            Shape (N, K), bool.
        groups
            Shape (N,); by default every image is a group of its own.
        folds
            Shape (N,); by default all images are in fold 0.
        """
        n = len(targets)
        groups = np.arange(n) if groups is None else groups
        folds = np.zeros(n, dtype=np.int64) if folds is None else folds
        return cls(targets, np.ones_like(targets, dtype=bool), groups, folds)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.targets)

    def take(self, rows: NDArray[Any]) -> Self:
        """Return the labels of some images, chosen by a boolean mask or by indices of shape (M,)."""
        return type(self)(self.targets[rows], self.known[rows], self.groups[rows], self.folds[rows])

    @property
    def n_known(self) -> NDArray[np.int64]:
        """Number of images for which each class is known, shape (K,)."""
        counts: NDArray[np.int64] = self.known.sum(axis=0)
        return counts

    @property
    def support(self) -> NDArray[np.int64]:
        """Number of images that have each class, shape (K,)."""
        counts: NDArray[np.int64] = self.targets.sum(axis=0)
        return counts

    @property
    def frequencies(self) -> NDArray[np.float64]:
        """Share of the known images that have each class, shape (K,); 0 where the class is known for none."""
        return self.support / np.maximum(self.n_known, 1)
