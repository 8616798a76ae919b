"""Cutting cells out of one image: from pixels and label images to crops, their masks and their table."""

from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from hpa.errors import ImageError
from hpa.pixels import Pixels

WHOLE_FRAME: Final = 0
"""The cell_label of the row that stands for a whole image without a kept cell."""


@dataclass(frozen=True)
class Cut:
    """The crops of one image.

    Parameters
    ----------
    crops
        Shape (n, C, S, S), uint8, all pixels of the window: neighbours too.
    masks
        Shape (n, S, S), bool, the cell's own pixels.
    table
        One row a crop, in the same order (`crops.store`), without image_id, shard and row.
    """

    crops: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    table: pd.DataFrame


def to_8_bit(pixels: Pixels) -> NDArray[np.uint8]:
    """Return 8-bit pixels: 8 bit as they are, 16 bit over its full range (65,535 becomes 255)."""
    if pixels.dtype == np.uint8:
        return pixels.astype(np.uint8, copy=False)
    return np.rint(pixels / 257.0).astype(np.uint8)


def measure_cells(cells: NDArray[np.uint16], nuclei: NDArray[np.uint16]) -> pd.DataFrame:
    """Measure every cell of a label image once.

    Parameters
    ----------
    cells
        Label image, shape (H, W); labels may be missing in between.
    nuclei
        Same shape; a nucleus carries the label of its cell.

    Returns
    -------
    DataFrame
        Sorted by cell_label: cell_label, the bounding box min_row_px, min_col_px, max_row_px, max_col_px (half-open),
        area_px, touches_border, has_nucleus, completeness. The completeness of a cell that touches the border is its
        area over the median area of the image's cells that do not, at most 1; without such cells it is 1.
    """
    boxes = [(label, box) for label, box in enumerate(ndimage.find_objects(cells), start=1) if box is not None]
    labels = np.array([label for label, _ in boxes], dtype=np.int64)
    corners = np.array(
        [(rows.start, cols.start, rows.stop, cols.stop) for _, (rows, cols) in boxes], dtype=np.int32
    ).reshape(-1, 4)
    area = np.bincount(cells.ravel(), minlength=1 + int(labels.max(initial=0)))[labels]
    height, width = cells.shape
    border = (corners[:, :2] == 0).any(axis=1) | (corners[:, 2] == height) | (corners[:, 3] == width)
    inner = area[~border]
    expected = float(np.median(inner)) if len(inner) else 0.0
    seen = np.where(border & (expected > 0), np.minimum(1.0, area / max(expected, 1.0)), 1.0)
    table = pd.DataFrame(corners, columns=["min_row_px", "min_col_px", "max_row_px", "max_col_px"])
    return table.assign(
        cell_label=labels.astype(np.int32),
        area_px=area.astype(np.int64),
        touches_border=border,
        has_nucleus=np.isin(labels, np.unique(nuclei)),
        completeness=seen.astype(np.float32),
    )


def square_windows(boxes: NDArray[np.integer[Any]], margin: float) -> NDArray[np.int32]:
    """Return square windows around bounding boxes; they may reach over the edge of the image.

    Parameters
    ----------
    boxes
        Shape (n, 4): first row, first column, end row, end column (half-open), in px.
    margin
        Added on each side, as a share of the longer side.

    Returns
    -------
    ndarray
        Shape (n, 4), int32, in the same order.
    """
    longer = np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
    side = np.ceil(longer * (1 + 2 * margin)).astype(np.int64)
    first = (boxes[:, :2] + boxes[:, 2:] - side[:, None]) // 2
    return np.concatenate([first, first + side[:, None]], axis=1).astype(np.int32)


def cut_cells(
    pixels: NDArray[np.uint8], cells: NDArray[np.uint16], measured: pd.DataFrame, size_px: int, margin: float
) -> Cut:
    """Cut a crop around each measured cell.

    Parameters
    ----------
    pixels
        Shape (C, H, W), uint8.
    cells
        Label image, shape (H, W).
    measured
        The rows of `measure_cells` to cut.
    size_px
        Height and width of a crop.
    margin
        As in `square_windows`.

    Raises
    ------
    ImageError
        If the label image has another size than the pixels.
    """
    if pixels.shape[1:] != cells.shape:
        raise ImageError(f"expected a mask of the image's size {pixels.shape[1:]}, found {cells.shape}")
    box_columns = ["min_row_px", "min_col_px", "max_row_px", "max_col_px"]
    windows = square_windows(measured[box_columns].to_numpy(), margin)
    interleaved = np.ascontiguousarray(pixels.transpose(1, 2, 0))
    crops = np.empty((len(windows), len(pixels), size_px, size_px), dtype=np.uint8)
    masks = np.empty((len(windows), size_px, size_px), dtype=bool)
    for i, (window, label) in enumerate(zip(windows, measured["cell_label"], strict=True)):
        crops[i] = _resized(_window(interleaved, window), size_px).transpose(2, 0, 1)
        own = (_window(cells[..., None], window) == label).astype(np.uint8) * 255
        masks[i] = _resized(own, size_px)[..., 0] >= 128
    table = measured.assign(
        **{name: windows[:, i] for i, name in enumerate(box_columns)},
        scale=(size_px / (windows[:, 2] - windows[:, 0])).astype(np.float32),
        fallback=False,
    )
    return Cut(crops, masks, table)


def cut_frame(pixels: NDArray[np.uint8], size_px: int) -> Cut:
    """Cut the whole frame, padded to a square, as the one crop of an image without a kept cell."""
    _, height, width = pixels.shape
    window = square_windows(np.array([[0, 0, height, width]]), margin=0.0)[0]
    frame = _resized(_window(np.ascontiguousarray(pixels.transpose(1, 2, 0)), window), size_px)
    inside = _resized(_window(np.full((height, width, 1), 255, dtype=np.uint8), window), size_px)
    row = {
        "min_row_px": window[0],
        "min_col_px": window[1],
        "max_row_px": window[2],
        "max_col_px": window[3],
        "cell_label": WHOLE_FRAME,
        "area_px": height * width,
        "touches_border": True,
        "has_nucleus": False,
        "completeness": 1.0,
        "scale": size_px / (window[2] - window[0]),
        "fallback": True,
    }
    return Cut(frame.transpose(2, 0, 1)[None], inside[None, ..., 0] >= 128, pd.DataFrame([row]))


def _window(image: NDArray[Any], window: NDArray[np.int32]) -> NDArray[Any]:
    """Return image[window], with zeros where the window reaches over the edge; image has shape (H, W, C)."""
    first_row, first_col, end_row, end_col = (int(edge) for edge in window)
    height, width = image.shape[:2]
    inside = image[max(first_row, 0) : min(end_row, height), max(first_col, 0) : min(end_col, width)]
    if inside.shape[:2] == (end_row - first_row, end_col - first_col):
        return inside
    square = np.zeros((end_row - first_row, end_col - first_col, image.shape[2]), dtype=image.dtype)
    top, left = max(-first_row, 0), max(-first_col, 0)
    square[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    return square


def _resized(square: NDArray[np.uint8], size_px: int) -> NDArray[np.uint8]:
    shrinks = square.shape[0] > size_px
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized: NDArray[Any] = cv2.resize(square, (size_px, size_px), interpolation=how)
    return resized.reshape(size_px, size_px, square.shape[2])
