"""Label images at the size of the source, with smooth edges instead of enlarged pixels."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segment.postprocess.labels import bounding_boxes

_AROUND_PX = 3  # the blur reaches this far
_BLUR_PX = 0.8
_MIN_SHARE = 0.1  # less of a cell than this is background
_MARGIN = 0.2  # how far the logit is from its level where the labels decide


def enlarge(
    labels: NDArray[np.integer[Any]], logit: NDArray[np.float32], level: float, shape: tuple[int, int]
) -> NDArray[np.uint16]:
    """Enlarge a label image to the size of the source.

    The outline towards the background is where the enlarged logit crosses `level`; the line between two cells
    is where their enlarged, slightly blurred shapes are equal. Each cell is handled in its own window, so that
    the work grows with the area and not with the number of cells.

    Parameters
    ----------
    labels
        Shape (h, w), labels 1..n at the size the network works at.
    logit
        Shape (h, w), high inside, with the outline at `level`.
    level
        The logit of the outline.
    shape
        Height and width of the source.

    Returns
    -------
    ndarray
        Shape `shape`, the same labels.
    """
    scale = (shape[0] / labels.shape[0], shape[1] / labels.shape[1])
    best = np.full(shape, _MIN_SHARE, dtype=np.float32)
    result = np.zeros(shape, dtype=np.uint16)
    for label, (rows, columns) in bounding_boxes(labels):
        small = _widened(rows, labels.shape[0]), _widened(columns, labels.shape[1])
        full = _enlarged(small[0], scale[0]), _enlarged(small[1], scale[1])
        shares = cv2.GaussianBlur((labels[small] == label).astype(np.float32), (0, 0), _BLUR_PX)
        own = _sample(shares, small, full, scale)
        wins = own > best[full]
        best[full][wins] = own[wins]
        result[full][wins] = label
    # Where labels and logit disagree (a nucleus in the dark, a piece without a nucleus), the labels are right.
    logit = np.where(labels > 0, np.maximum(logit - level, _MARGIN), np.minimum(logit - level, -_MARGIN))
    outline = cv2.resize(logit.astype(np.float32), (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)
    result[outline <= 0] = 0
    return result


def _widened(span: slice, size: int) -> slice:
    return slice(max(0, span.start - _AROUND_PX), min(size, span.stop + _AROUND_PX))


def _enlarged(span: slice, scale: float) -> slice:
    return slice(round(span.start * scale), round(span.stop * scale))


def _sample(
    small: NDArray[np.float32], source: tuple[slice, slice], target: tuple[slice, slice], scale: tuple[float, float]
) -> NDArray[np.float32]:
    # The centre of a target pixel, in pixels of the small window: (t + 1/2) / scale - 1/2 - start.
    shift = [(t.start + 0.5) / k - 0.5 - s.start for s, t, k in zip(source, target, scale, strict=True)]
    matrix = np.array([[1 / scale[1], 0, shift[1]], [0, 1 / scale[0], shift[0]]])
    size = (target[1].stop - target[1].start, target[0].stop - target[0].start)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    enlarged = cv2.warpAffine(small, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return enlarged.astype(np.float32, copy=False)
