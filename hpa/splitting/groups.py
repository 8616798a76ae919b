"""Groups of images that must stay together: those that share an antibody or a well or look alike, even indirectly."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

_BLOCK: Final = 1_000_000


def join_groups(
    n: int, keys: Sequence[Sequence[str | None]], pairs: NDArray[np.integer[Any]] | None = None
) -> NDArray[np.int32]:
    """Number the groups of images that are connected by a shared key or a pair.

    Parameters
    ----------
    n
        Number of images, N.
    keys
        For each kind of key, such as the antibody, its value for each of the N images, None where unknown.
    pairs
        Positions of images that belong together, shape (P, 2).

    Returns
    -------
    ndarray
        Group of each image, shape (N,), int32, numbered by first appearance.

    Examples
    --------
    >>> import numpy as np
    >>> from hpa.splitting.groups import join_groups
    >>> antibodies = ["A", None, "B", "A", None]
    >>> join_groups(5, [antibodies], np.array([[2, 4]]))
    array([0, 1, 2, 0, 2], dtype=int32)
    """
    groups: NDArray[np.integer[Any]] = np.arange(n)
    for edges in _edges(keys, pairs):
        graph = coo_array((np.ones(len(edges), dtype=bool), tuple(groups[edges].T)), shape=(n, n))
        groups = connected_components(graph, directed=False)[1][groups]
    return pd.factorize(groups)[0].astype(np.int32)


def _edges(
    keys: Sequence[Sequence[str | None]], pairs: NDArray[np.integer[Any]] | None
) -> Iterator[NDArray[np.integer[Any]]]:
    """Yield the connections in blocks, because a graph of all of them at once takes many times their memory."""
    for values in keys:
        codes = pd.factorize(pd.Series(list(values), dtype=object))[0]  # -1 where unknown
        known = np.flatnonzero(codes >= 0)
        _, first, inverse = np.unique(codes[known], return_index=True, return_inverse=True)
        yield np.column_stack([known, known[first][inverse]])
    if pairs is not None:
        for start in range(0, len(pairs), _BLOCK):
            yield pairs[start : start + _BLOCK]


def largest_group(groups: NDArray[np.int32]) -> int:
    """Return the size of the largest group, 0 if there are no images."""
    return int(np.bincount(groups).max()) if len(groups) else 0
