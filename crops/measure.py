"""What is known of the cells of one image: measured once, within bounding boxes."""

from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from hpa.channels import Channel

_FOCUS_CHANNELS: Final[tuple[Channel, ...]] = ("yellow", "red", "blue", "green")
"""The first of them that the run has: ER fills the cell and looks alike in all, the protein does not."""

_SMOOTH_PX: Final = 1.0
"""Noise is smoothed away before the second derivative is taken."""


@dataclass(frozen=True)
class Regions:
    """Some regions of one image; cells, or the frame itself.

    Parameters
    ----------
    image
        Label image, shape (H, W).
    labels
        Shape (n,), int32, rising: the labels that occur; some may be missing in between.
    boxes
        Shape (n, 4), int32: bounding box of each label (first row, first column, end row, end column), or any box
        within the frame of which the pixels with that label are meant.
    """

    image: NDArray[np.uint16]
    labels: NDArray[np.int32]
    boxes: NDArray[np.int32]

    def own(self, i: int) -> tuple[tuple[slice, slice], NDArray[np.uint8]]:
        """Return the i-th box and which of its pixels are the region's own (255, others 0)."""
        first_row, first_col, end_row, end_col = self.boxes[i]
        box = np.s_[first_row:end_row, first_col:end_col]
        label = int(self.labels[i])
        return box, np.asarray(cv2.inRange(self.image[box], label, label), dtype=np.uint8)


def find_cells(image: NDArray[np.uint16]) -> Regions:
    """Find the cells of a label image of shape (H, W) and their bounding boxes."""
    boxes = [(label, box) for label, box in enumerate(ndimage.find_objects(image), start=1) if box is not None]
    corners = [(rows.start, cols.start, rows.stop, cols.stop) for _, (rows, cols) in boxes]
    return Regions(
        image,
        np.array([label for label, _ in boxes], dtype=np.int32),
        np.array(corners, dtype=np.int32).reshape(-1, 4),
    )


def measure_cells(cells: Regions, nuclei: NDArray[np.uint16]) -> dict[str, NDArray[Any]]:
    """Measure cells in space.

    Parameters
    ----------
    cells
        What `find_cells` returned.
    nuclei
        Label image of the same shape; a nucleus carries the label of its cell.

    Returns
    -------
    dict
        Arrays of shape (n,): cell_label, area_px, touches_border, completeness, n_nuclei (connected pieces of the
        cell's nucleus within the cell's bounding box), has_nucleus. The completeness of a cell that touches the border
        is its area over the median area of the image's cells that do not, at most 1; without such cells it is 1.
    """
    area = np.zeros(len(cells.labels), dtype=np.int64)
    n_nuclei = np.zeros(len(cells.labels), dtype=np.int32)
    for i, label in enumerate(cells.labels):
        box, own = cells.own(i)
        area[i] = cv2.countNonZero(own)
        nucleus = cv2.inRange(nuclei[box], int(label), int(label))
        n_nuclei[i] = cv2.connectedComponents(nucleus, connectivity=8)[0] - 1
    border = _touch(cells.boxes, cells.image.shape)
    expected = float(np.median(area[~border])) if (~border).any() else 0.0
    seen = np.where(border & (expected > 0), np.minimum(1.0, area / max(expected, 1.0)), 1.0)
    return {
        "cell_label": cells.labels,
        "area_px": area,
        "touches_border": border,
        "completeness": seen.astype(np.float32),
        "n_nuclei": n_nuclei,
        "has_nucleus": n_nuclei > 0,
    }


def measure_windows(windows: NDArray[np.int32], height: int, width: int) -> dict[str, NDArray[Any]]:
    """Return the columns of `measure_cells` for windows that follow no cell, numbered from 1; nuclei are not counted.

    Parameters
    ----------
    windows
        Shape (n, 4); they may reach over the edge of the frame.
    """
    clipped = clip(windows, height, width)
    area = np.prod(clipped[:, 2:] - clipped[:, :2], axis=1, dtype=np.int64)
    full = np.prod(windows[:, 2:] - windows[:, :2], axis=1, dtype=np.int64)
    return {
        "cell_label": np.arange(1, len(windows) + 1, dtype=np.int32),
        "area_px": area,
        "touches_border": _touch(clipped, (height, width)),
        "completeness": (area / full).astype(np.float32),
        "n_nuclei": np.zeros(len(windows), dtype=np.int32),
        "has_nucleus": np.zeros(len(windows), dtype=bool),
    }


def measure_light(
    planes: NDArray[np.uint8], regions: Regions, channels: tuple[Channel, ...]
) -> dict[str, NDArray[np.float32]]:
    """Measure the brightness and the focus of regions.

    The focus measure is the variance of the Laplacian of the plane (ER where the run has it), smoothed by 1 px, over
    the variance of the plane: what share of the structure is fine. Blurring lowers it, gain and offset do not change
    it, but the size of a pixel does: compare images of one pixel size (after Pech-Pacheco et al. 2000, normalised).

    Parameters
    ----------
    planes
        Shape (C, H, W).
    regions
        Of the same image.
    channels
        Of the planes.

    Returns
    -------
    dict
        Arrays of shape (n,), float32: mean_C of every channel C, over the region's own pixels, in 8-bit units; focus.
    """
    mean = np.zeros((len(regions.labels), len(planes)), dtype=np.float32)
    focus = np.zeros(len(regions.labels), dtype=np.float32)
    focused = next(channels.index(channel) for channel in _FOCUS_CHANNELS if channel in channels)
    smooth = cv2.GaussianBlur(planes[focused].astype(np.float32), (0, 0), _SMOOTH_PX)
    fine = cv2.Laplacian(smooth, cv2.CV_32F)
    merged = cv2.merge(list(planes))
    for i in range(len(regions.labels)):
        box, own = regions.own(i)
        means, spreads = cv2.meanStdDev(merged[box], mask=own)
        mean[i] = means[:, 0]
        if (spread := float(spreads[focused, 0])) > 0:
            focus[i] = (float(cv2.meanStdDev(fine[box], mask=own)[1][0, 0]) / spread) ** 2
    return {f"mean_{channel}": mean[:, i] for i, channel in enumerate(channels)} | {"focus": focus}


def share_within(cells: Regions, area_px: NDArray[np.int64], windows: NDArray[np.int32]) -> NDArray[np.float32]:
    """Return the share of each cell's pixels that lie in its window, shape (n,)."""
    share = np.ones(len(windows), dtype=np.float32)
    cut = (cells.boxes[:, :2] < windows[:, :2]).any(axis=1) | (cells.boxes[:, 2:] > windows[:, 2:]).any(axis=1)
    seen = Regions(cells.image, cells.labels, clip(windows, *cells.image.shape))
    for i in np.flatnonzero(cut):
        share[i] = cv2.countNonZero(seen.own(int(i))[1]) / area_px[i]
    return share


def clip(windows: NDArray[np.int32], height: int, width: int) -> NDArray[np.int32]:
    """Return the parts of windows that lie in the frame."""
    return np.clip(windows, 0, [height, width, height, width]).astype(np.int32)


def _touch(boxes: NDArray[np.int32], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    return (boxes[:, :2] <= 0).any(axis=1) | (boxes[:, 2] >= shape[0]) | (boxes[:, 3] >= shape[1])
