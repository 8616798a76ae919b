"""Measure the cells of one image, or other regions of it, within their bounding boxes."""

from dataclasses import dataclass, replace
from typing import Any, Final, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from crops.depth import channels_last
from hpa.channels import Channel

_FOCUS_CHANNELS: Final[tuple[Channel, ...]] = ("yellow", "red", "blue", "green")
"""Focus is measured on the first of these channels that the run has.

ER comes first because it fills the cell and looks similar in all cells, the protein last because it does not.
"""

_SMOOTHING: Final = cv2.getGaussianKernel(9, 1.0, cv2.CV_32F)
"""Gaussian kernel of sigma 1 px that removes noise before the second derivative is taken."""


@dataclass(frozen=True)
class Regions:
    """Regions of one image: cells, or windows of the frame.

    Parameters
    ----------
    image
        Label image, shape (H, W).
    labels
        Shape (n,), int32: the label of each region. Labels of cells are in ascending order and may have gaps.
    boxes
        Shape (n, 4), int32: a box within the frame for each region (first row, first column, end row, end column).
        The region consists of the pixels with its label inside this box, usually its bounding box.
    area_px
        Shape (n,), int64: number of pixels of each region.
    """

    image: NDArray[np.uint16]
    labels: NDArray[np.int32]
    boxes: NDArray[np.int32]
    area_px: NDArray[np.int64]

    def own_pixels(self, i: int) -> tuple[tuple[slice, slice], NDArray[np.uint8]]:
        """Return the i-th box and a mask of the region's own pixels in it (255 inside, 0 outside)."""
        first_row, first_col, end_row, end_col = self.boxes[i].tolist()
        box = np.s_[first_row:end_row, first_col:end_col]
        label = int(self.labels[i])
        return box, np.asarray(cv2.inRange(self.image[box], label, label), dtype=np.uint8)

    def select(self, selected: NDArray[np.bool_]) -> Self:
        """Return the regions selected by a boolean array of shape (n,)."""
        return replace(self, labels=self.labels[selected], boxes=self.boxes[selected], area_px=self.area_px[selected])


def find_cells(image: NDArray[np.uint16]) -> Regions:
    """Return the labels, bounding boxes and areas of the cells of a label image.

    The image is split once into runs of equal pixels within a row. All else is computed from the runs, which are far
    fewer than the pixels.

    Parameters
    ----------
    image
        Shape (H, W), 0 for background.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.array([[0, 1, 1, 0], [0, 1, 0, 3]], dtype=np.uint16)
    >>> cells = find_cells(image)
    >>> cells.labels
    array([1, 3], dtype=int32)
    >>> cells.boxes
    array([[0, 1, 2, 3],
           [1, 3, 2, 4]], dtype=int32)
    >>> cells.area_px
    array([3, 1])
    """
    width = image.shape[1]
    is_last = np.empty(image.shape, dtype=bool)
    np.not_equal(image[:, 1:], image[:, :-1], out=is_last[:, :-1])
    is_last[:, -1] = True
    last = np.flatnonzero(is_last)
    first = np.concatenate([[0], last[:-1] + 1])
    labels = image.ravel()[last]
    order = np.argsort(labels, kind="stable")[np.count_nonzero(labels == 0) :]
    first, last, labels = first[order], last[order], labels[order]
    starts = np.flatnonzero(np.diff(labels, prepend=0))  # index of the first run of each cell
    rows, first_cols = np.divmod(first, width)
    boxes = [
        np.minimum.reduceat(rows, starts),
        np.minimum.reduceat(first_cols, starts),
        np.maximum.reduceat(rows, starts) + 1,
        np.maximum.reduceat(last % width, starts) + 1,
    ]
    area_px = np.add.reduceat(last - first + 1, starts)
    return Regions(image, labels[starts].astype(np.int32), np.stack(boxes, axis=1).astype(np.int32), area_px)


def measure_cells(cells: Regions, nuclei: NDArray[np.uint16]) -> dict[str, NDArray[Any]]:
    """Measure area, border contact, completeness and nuclei of cells.

    Parameters
    ----------
    cells
        The cells of one image (`find_cells`).
    nuclei
        Label image of the same shape; a nucleus has the label of its cell.

    Returns
    -------
    dict
        Arrays of shape (n,): cell_label, area_px, touches_border, completeness, n_nuclei, has_nucleus.

    Notes
    -----
    n_nuclei counts the connected components of the cell's nucleus label within the bounding box of the cell. The
    completeness of a cell that touches the border is its area divided by the median area of the cells of the image that
    do not touch it, at most 1. If there are no such cells, it is 1.
    """
    area = cells.area_px
    n_nuclei = np.zeros(len(cells.labels), dtype=np.int32)
    nucleus = replace(cells, image=nuclei)
    for i in range(len(n_nuclei)):
        _, own = nucleus.own_pixels(i)
        n_nuclei[i] = cv2.connectedComponents(own, connectivity=8)[0] - 1
    border = _touches_border(cells.boxes, cells.image.shape)
    expected = float(np.median(area[~border])) if (~border).any() else 0.0
    completeness = np.where(border & (expected > 0), np.minimum(1.0, area / max(expected, 1.0)), 1.0)
    return {
        "cell_label": cells.labels,
        "area_px": area,
        "touches_border": border,
        "completeness": completeness.astype(np.float32),
        "n_nuclei": n_nuclei,
        "has_nucleus": n_nuclei > 0,
    }


def measure_windows(windows: NDArray[np.int32], height: int, width: int) -> dict[str, NDArray[Any]]:
    """Return the columns of `measure_cells` for windows that do not follow cells.

    Windows are numbered from 1. Nuclei are not counted.

    Parameters
    ----------
    windows
        Shape (n, 4); they may extend beyond the frame.
    height, width
        Size of the frame in px.
    """
    clipped = clip_to_frame(windows, height, width)
    area = np.prod(clipped[:, 2:] - clipped[:, :2], axis=1, dtype=np.int64)
    full = np.prod(windows[:, 2:] - windows[:, :2], axis=1, dtype=np.int64)
    return {
        "cell_label": np.arange(1, len(windows) + 1, dtype=np.int32),
        "area_px": area,
        "touches_border": _touches_border(clipped, (height, width)),
        "completeness": (area / full).astype(np.float32),
        "n_nuclei": np.zeros(len(windows), dtype=np.int32),
        "has_nucleus": np.zeros(len(windows), dtype=bool),
    }


def measure_intensities(
    planes: NDArray[np.uint8], regions: Regions, channels: tuple[Channel, ...]
) -> dict[str, NDArray[np.float32]]:
    """Measure the mean intensity of each channel and the focus of regions.

    The focus measure is the variance of the Laplacian of one plane (ER if the run has it), smoothed by 1 px, divided by
    the variance of the plane: the share of the structure that is fine. Blurring lowers it. Gain and offset do not
    change it, but the pixel size does, so compare only images of the same pixel size (after Pech-Pacheco et al. 2000,
    normalised).

    Parameters
    ----------
    planes
        Shape (C, H, W).
    regions
        Regions of the same image.
    channels
        The channel of each plane.

    Returns
    -------
    dict
        Arrays of shape (n,), float32: mean_C of each channel C over the region's own pixels, in 8-bit units; focus.
    """
    mean = np.zeros((len(regions.labels), len(planes)), dtype=np.float32)
    focus = np.zeros(len(regions.labels), dtype=np.float32)
    focus_index = next(channels.index(channel) for channel in _FOCUS_CHANNELS if channel in channels)
    merged = channels_last(planes)
    plane = cv2.extractChannel(merged, focus_index)
    fine = cv2.Laplacian(cv2.sepFilter2D(plane, cv2.CV_32F, _SMOOTHING, _SMOOTHING), cv2.CV_32F)
    for i, n in enumerate(regions.area_px.tolist()):
        box, own = regions.own_pixels(i)
        # Summing with a mask is several times slower in OpenCV than blackening the outside first.
        sums = np.array(cv2.sumElems(cv2.copyTo(merged[box], own)))[: len(planes)]
        mean[i] = sums / n
        if (spread := cv2.norm(plane[box], cv2.NORM_L2SQR, own) / n - (sums[focus_index] / n) ** 2) > 0:
            sharp = cv2.sumElems(cv2.copyTo(fine[box], own))[0] / n
            focus[i] = max(0.0, cv2.norm(fine[box], cv2.NORM_L2SQR, own) / n - sharp**2) / spread
    return {f"mean_{channel}": mean[:, i] for i, channel in enumerate(channels)} | {"focus": focus}


def share_in_window(cells: Regions, windows: NDArray[np.int32]) -> NDArray[np.float32]:
    """Return the fraction of each cell's pixels inside its window.

    Parameters
    ----------
    cells
        n cells of one image.
    windows
        Shape (n, 4), one per cell.

    Returns
    -------
    ndarray
        Shape (n,), float32, 0..1.
    """
    share = np.ones(len(windows), dtype=np.float32)
    is_cut = (cells.boxes[:, :2] < windows[:, :2]).any(axis=1) | (cells.boxes[:, 2:] > windows[:, 2:]).any(axis=1)
    visible = replace(cells, boxes=clip_to_frame(windows, *cells.image.shape))
    for i in np.flatnonzero(is_cut):
        share[i] = cv2.countNonZero(visible.own_pixels(int(i))[1]) / cells.area_px[i]
    return share


def clip_to_frame(windows: NDArray[np.int32], height: int, width: int) -> NDArray[np.int32]:
    """Return windows cut off at the edges of the frame."""
    return np.clip(windows, 0, [height, width, height, width]).astype(np.int32)


def _touches_border(boxes: NDArray[np.int32], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    return (boxes[:, :2] <= 0).any(axis=1) | (boxes[:, 2] >= shape[0]) | (boxes[:, 3] >= shape[1])
