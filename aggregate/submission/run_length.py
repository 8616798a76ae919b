"""Run-length masks in COCO's compressed form, as Kaggle 2021 wants them."""

import base64
import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects


def run_lengths(mask: NDArray[np.bool_], top: int, left: int, shape: tuple[int, int]) -> NDArray[np.int64]:
    """Return COCO's counts of a mask: lengths of runs of 0 and 1 in turn, down the columns, beginning with 0.

    Parameters
    ----------
    mask
        Shape (h, w), bool: a window of the image.
    top, left
        Where the window begins in the image.
    shape
        (H, W) of the image.
    """
    columns, rows = np.nonzero(mask.T)
    places = (columns + left) * shape[0] + rows + top
    breaks = np.flatnonzero(np.diff(places) != 1)
    starts = places[np.append(0, breaks + 1)] if len(places) else places
    ends = places[np.append(breaks, len(places) - 1)] + 1 if len(places) else places
    bounds = np.column_stack([starts, ends]).ravel()
    total = shape[0] * shape[1]
    counts: NDArray[np.int64] = np.diff(np.concatenate([[0], bounds, [total]]))
    return counts if counts[-1] or len(counts) == 1 else counts[:-1]


def compress_counts(counts: NDArray[np.int64]) -> bytes:
    """Write counts as COCO's API does: from the fourth on as the difference to the last but one, in groups of five bits
    from the lowest, each with a bit that says whether more follow, as a character from 48 on.
    """
    differences = counts.copy()
    differences[3:] -= counts[1:-2]
    written = bytearray()
    for value in differences.tolist():
        more = True
        while more:
            bits = value & 0x1F
            value >>= 5
            more = value != (-1 if bits & 0x10 else 0)
            written.append(48 + bits + (0x20 if more else 0))
    return bytes(written)


def pack(counts: bytes) -> str:
    """Return zlib-compressed base64 of compressed counts."""
    return base64.b64encode(zlib.compress(counts, zlib.Z_BEST_COMPRESSION)).decode("ascii")


def packed_cells(labels: NDArray[np.uint16]) -> Iterator[tuple[int, str]]:
    """Yield cell_label and packed mask of every cell of a label image (H, W), each looked at within its own box."""
    height, width = labels.shape
    for index, box in enumerate(find_objects(labels)):
        if box is not None:
            own = labels[box] == index + 1
            counts = run_lengths(own, box[0].start, box[1].start, (height, width))
            yield index + 1, pack(compress_counts(counts))


def packed_frame(height: int, width: int) -> str:
    """Return the packed mask of a whole frame."""
    return pack(compress_counts(np.array([0, height * width])))
