"""What is known of the cells of one image: measured once, within bounding boxes."""

from dataclasses import dataclass, replace
from typing import Any, Final, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from crops.depth import interleaved
from hpa.channels import Channel

_FOCUS_CHANNELS: Final[tuple[Channel, ...]] = ("yellow", "red", "blue", "green")
"""The first of them that the run has: ER fills the cell and looks alike in all, the protein does not."""

_SMOOTH: Final = cv2.getGaussianKernel(9, 1.0, cv2.CV_32F)
"""Noise is smoothed away, by 1 px, before the second derivative is taken."""


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
    area_px
        Shape (n,), int64: how many pixels each region has.
    """

    image: NDArray[np.uint16]
    labels: NDArray[np.int32]
    boxes: NDArray[np.int32]
    area_px: NDArray[np.int64]

    def own(self, i: int) -> tuple[tuple[slice, slice], NDArray[np.uint8]]:
        """Return the i-th box and which of its pixels are the region's own (255, others 0)."""
        first_row, first_col, end_row, end_col = self.boxes[i].tolist()
        box = np.s_[first_row:end_row, first_col:end_col]
        label = int(self.labels[i])
        return box, np.asarray(cv2.inRange(self.image[box], label, label), dtype=np.uint8)

    def only(self, chosen: NDArray[np.bool_]) -> Self:
        """Return some of the regions, told by a mask of shape (n,)."""
        return replace(self, labels=self.labels[chosen], boxes=self.boxes[chosen], area_px=self.area_px[chosen])


def find_cells(image: NDArray[np.uint16]) -> Regions:
    """Find the cells of a label image of shape (H, W): their labels, bounding boxes and areas, in one pass.

    The image is read as runs of equal pixels within a row; all else is done with the runs, which are few.
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
    starts = np.flatnonzero(np.diff(labels, prepend=0))  # where the runs of a cell begin
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
    area = cells.area_px
    n_nuclei = np.zeros(len(cells.labels), dtype=np.int32)
    nucleus = replace(cells, image=nuclei)
    for i in range(len(n_nuclei)):
        _, own = nucleus.own(i)
        n_nuclei[i] = cv2.connectedComponents(own, connectivity=8)[0] - 1
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
    height, width
        Of the frame, in px.
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
    merged = interleaved(planes)
    plane = cv2.extractChannel(merged, focused)
    fine = cv2.Laplacian(cv2.sepFilter2D(plane, cv2.CV_32F, _SMOOTH, _SMOOTH), cv2.CV_32F)
    for i, n in enumerate(regions.area_px.tolist()):
        box, own = regions.own(i)
        # OpenCV's sums with a mask are several times slower than those of what is black outside.
        sums = np.array(cv2.sumElems(cv2.copyTo(merged[box], own)))[: len(planes)]
        mean[i] = sums / n
        if (spread := cv2.norm(plane[box], cv2.NORM_L2SQR, own) / n - (sums[focused] / n) ** 2) > 0:
            sharp = cv2.sumElems(cv2.copyTo(fine[box], own))[0] / n
            focus[i] = max(0.0, cv2.norm(fine[box], cv2.NORM_L2SQR, own) / n - sharp**2) / spread
    return {f"mean_{channel}": mean[:, i] for i, channel in enumerate(channels)} | {"focus": focus}


def share_within(cells: Regions, windows: NDArray[np.int32]) -> NDArray[np.float32]:
    """Return the share of each cell's pixels that lie in its window.

    Parameters
    ----------
    cells
        Of one image, n of them.
    windows
        Shape (n, 4), one for each cell.

    Returns
    -------
    ndarray
        Shape (n,), float32, 0..1.
    """
    share = np.ones(len(windows), dtype=np.float32)
    cut = (cells.boxes[:, :2] < windows[:, :2]).any(axis=1) | (cells.boxes[:, 2:] > windows[:, 2:]).any(axis=1)
    seen = replace(cells, boxes=clip(windows, *cells.image.shape))
    for i in np.flatnonzero(cut):
        share[i] = cv2.countNonZero(seen.own(int(i))[1]) / cells.area_px[i]
    return share


def clip(windows: NDArray[np.int32], height: int, width: int) -> NDArray[np.int32]:
    """Return the parts of windows that lie in the frame."""
    return np.clip(windows, 0, [height, width, height, width]).astype(np.int32)


def _touch(boxes: NDArray[np.int32], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    return (boxes[:, :2] <= 0).any(axis=1) | (boxes[:, 2] >= shape[0]) | (boxes[:, 3] >= shape[1])
