"""Operations on label images of any objects: bounding boxes, watershed, size filter, smooth enlargement."""

from collections.abc import Iterator
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.segmentation import watershed

from segment.network.scale import NETWORK_DIAMETER_PX

Labels = NDArray[np.int32]
Window = tuple[slice, slice]

TYPICAL_CELL_PX2: Final = float(np.pi / 4 * NETWORK_DIAMETER_PX**2)
"""Area of a typical cell at the network's scale."""

_MARGIN_PX: Final = 3  # the blur reaches this far
_BLUR_PX: Final = 0.8
_MIN_SHARE: Final = 0.1  # a pixel with a smaller share of every object is background
_MIN_LOGIT_DISTANCE: Final = 0.2  # from the level, where the labels overrule the logit


def bounding_boxes(labels: NDArray[np.integer[Any]]) -> Iterator[tuple[int, Window]]:
    """Yield each label of an image of shape (H, W) with the smallest window that contains it.

    Examples
    --------
    >>> list(bounding_boxes(np.array([[0, 2, 2], [0, 2, 0]])))
    [(2, (slice(0, 2, None), slice(1, 3, None)))]
    """
    windows: list[Any] = ndimage.find_objects(labels)
    for label, window in enumerate(windows, start=1):
        if window is not None:  # a label that does not occur
            yield label, window


def edge_labels(labels: NDArray[np.integer[Any]]) -> NDArray[np.integer[Any]]:
    """Return the labels that touch the edge of an image of shape (H, W), in ascending order.

    Examples
    --------
    >>> edge_labels(np.array([[0, 0, 0, 4], [0, 2, 0, 0], [1, 0, 0, 0]]))
    array([1, 4])
    """
    found = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    return found[found > 0]


def flood(height: NDArray[Any], seeds: NDArray[np.integer[Any]], inside: NDArray[np.bool_]) -> Labels:
    """Grow seeds from the lowest to the highest pixels until they meet (watershed).

    Parameters
    ----------
    height
        Shape (H, W).
    seeds
        Shape (H, W), labels.
    inside
        Shape (H, W), the pixels that may be labelled.

    Returns
    -------
    ndarray
        Shape (H, W), the labels of the seeds; pixels that no seed reaches are 0.
    """
    grown: Labels = watershed(height, seeds, mask=inside).astype(np.int32)  # type: ignore[no-untyped-call]
    return grown


def drop_small(labels: Labels, min_area: float) -> Labels:
    """Drop small objects and renumber the others 1..n.

    Parameters
    ----------
    labels
        Shape (H, W) at the network's scale.
    min_area
        Minimum area, as a share of a typical cell's area.
    """
    areas = np.bincount(labels.ravel())
    keep = areas >= max(1.0, min_area * TYPICAL_CELL_PX2)
    keep[0] = False
    return (np.cumsum(keep) * keep)[labels].astype(np.int32)


def enlarge_labels(
    labels: NDArray[np.integer[Any]], logit: NDArray[np.float32], level: float, shape: tuple[int, int]
) -> NDArray[np.uint16]:
    """Enlarge a label image to the size of the source, with smooth edges.

    The outline towards the background lies where the enlarged logit crosses `level`. The line between two objects
    lies where their enlarged, slightly blurred shapes are equal. Each object is enlarged in its own window, so the
    work grows with the area and not with the number of objects.

    Parameters
    ----------
    labels
        Shape (h, w), labels 1..n at the network's scale.
    logit
        Shape (h, w), high inside objects.
    level
        Logit at the outline.
    shape
        Height and width of the source.

    Returns
    -------
    ndarray
        Shape `shape`, uint16, the same labels.
    """
    scale = (shape[0] / labels.shape[0], shape[1] / labels.shape[1])
    best = np.full(shape, _MIN_SHARE, dtype=np.float32)
    result = np.zeros(shape, dtype=np.uint16)
    for label, (rows, columns) in bounding_boxes(labels):
        small = _widen(rows, labels.shape[0]), _widen(columns, labels.shape[1])
        large = _enlarge_span(small[0], scale[0]), _enlarge_span(small[1], scale[1])
        if 0 in best[large].shape:  # smaller than a pixel of the source
            continue
        shares = cv2.GaussianBlur((labels[small] == label).astype(np.float32), (0, 0), _BLUR_PX)
        own = _enlarge_window(shares, small, large, scale)
        rivals = best[large]
        np.copyto(result[large], label, where=own > rivals)
        np.maximum(own, rivals, out=rivals)
    # Where labels and logit disagree (a nucleus in a dark place, a piece without a nucleus), the labels decide.
    above = logit - level
    above = np.where(labels > 0, np.maximum(above, _MIN_LOGIT_DISTANCE), np.minimum(above, -_MIN_LOGIT_DISTANCE))
    outline = cv2.resize(above.astype(np.float32), (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)
    result *= outline > 0
    return result


def _widen(span: slice, size: int) -> slice:
    return slice(max(0, span.start - _MARGIN_PX), min(size, span.stop + _MARGIN_PX))


def _enlarge_span(span: slice, scale: float) -> slice:
    return slice(round(span.start * scale), round(span.stop * scale))


def _enlarge_window(
    small: NDArray[np.float32], source: tuple[slice, slice], target: tuple[slice, slice], scale: tuple[float, float]
) -> NDArray[np.float32]:
    # The centre of target pixel t, in pixels of the small window, is (t + 1/2) / scale - 1/2 - start.
    shift = [(t.start + 0.5) / k - 0.5 - s.start for s, t, k in zip(source, target, scale, strict=True)]
    matrix = np.array([[1 / scale[1], 0, shift[1]], [0, 1 / scale[0], shift[0]]])
    size = (target[1].stop - target[1].start, target[0].stop - target[0].start)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    enlarged = cv2.warpAffine(small, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return enlarged.astype(np.float32, copy=False)
