"""What is done to label images whatever they label."""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.segmentation import watershed

from segment.network.scale import NETWORK_DIAMETER_PX

Labels = NDArray[np.int32]
Window = tuple[slice, slice]

TYPICAL_CELL_PX2: Final = float(np.pi / 4 * NETWORK_DIAMETER_PX**2)


def bounding_boxes(labels: NDArray[np.integer[Any]]) -> Iterator[tuple[int, Window]]:
    """Yield every label that occurs in an image of shape (H, W), with the smallest window that holds it."""
    found: list[Any] = ndimage.find_objects(labels)
    for label, window in enumerate(found, start=1):
        if window is not None:  # this number is not used
            yield label, window


def edge_labels(labels: NDArray[np.integer[Any]]) -> NDArray[np.integer[Any]]:
    """Return the labels that touch the edge of an image of shape (H, W), in ascending order."""
    found = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    return found[found > 0]


def flood(height: NDArray[Any], seeds: NDArray[np.integer[Any]], inside: NDArray[np.bool_]) -> Labels:
    """Grow seeds over an image from its lowest to its highest pixels until they meet (watershed).

    Parameters
    ----------
    height
        Shape (H, W).
    seeds
        Shape (H, W), labels.
    inside
        Shape (H, W), where they may grow.
    """
    grown: Labels = watershed(height, seeds, mask=inside).astype(np.int32)  # type: ignore[no-untyped-call]
    return grown


def large_only(labels: Labels, min_area: float) -> Labels:
    """Drop small objects and number the others 1..n.

    Parameters
    ----------
    labels
        Shape (H, W) at the size the network works at.
    min_area
        A share of a typical cell's area.
    """
    areas = np.bincount(labels.ravel())
    keep = areas >= max(1.0, min_area * TYPICAL_CELL_PX2)
    keep[0] = False
    return (np.cumsum(keep) * keep)[labels].astype(np.int32)
