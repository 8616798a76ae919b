"""Perceptual hashes of planes, and all pairs of images with similar hashes. The only module that uses ImageHash."""

from typing import Any, Final

import cv2
import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hpa.channels import Channel
from hpa.pixels import Pixels

HASHED: Final[tuple[Channel, ...]] = ("red", "green", "blue")
"""Channels that are compared if the run has them."""

_REDUCED_PX: Final = 32  # the size that imagehash.phash itself resizes to, four times its 8 x 8 frequencies
_MIN_RANGE: Final = 2.0
"""Range in gray levels of 8 bits, after averaging to 32 x 32, below which a plane counts as flat."""

_TILE: Final = (64, 4096)


def hash_plane(plane: Pixels) -> int | None:
    """Return the 64-bit perceptual hash of a plane, the signs of its low frequencies; None if it is flat or black.

    A flat plane has no pattern, so the hashes of two flat planes would be similar whatever the planes show.

    Parameters
    ----------
    plane
        Shape (H, W), uint8 or uint16.
    """
    # A first reduction in integer gray levels is faster and rounds off less than a tenth of a level.
    half_way = 4 * _REDUCED_PX
    small: NDArray[Any] = plane
    if min(plane.shape) > half_way:
        small = cv2.resize(plane, (half_way, half_way), interpolation=cv2.INTER_AREA)
    reduced = cv2.resize(small.astype(np.float32), (_REDUCED_PX, _REDUCED_PX), interpolation=cv2.INTER_AREA)
    low, high = float(reduced.min()), float(reduced.max())
    if high - low < _MIN_RANGE * (np.iinfo(plane.dtype).max / 255):
        return None
    stretched = ((reduced - low) * (255 / (high - low))).round().astype(np.uint8)
    bits = imagehash.phash(Image.fromarray(stretched)).hash
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def similar_pairs(hashes: NDArray[np.uint64], usable: NDArray[np.bool_], bits: int) -> NDArray[np.int32]:
    """Return all pairs of images whose hashes differ in at most `bits` bits in every channel.

    Every pair is compared by exclusive or and a bit count, tile by tile; no approximate index is involved, so no pair
    is missed.

    Parameters
    ----------
    hashes
        Shape (N, C), one column per channel.
    usable
        Shape (N,); images with a flat or unreadable plane match nothing.
    bits
        Maximum number of differing bits.

    Returns
    -------
    ndarray
        Pairs of positions, shape (P, 2), int32, the smaller one first, sorted.
    """
    places = np.flatnonzero(usable).astype(np.int32)
    kept = np.ascontiguousarray(hashes[places].T)
    height, width = _TILE
    n = len(places)
    bands = [np.empty((0, 2), dtype=np.int32)]
    for top in range(0, n, height):
        tiles = [
            _in_tile(kept, slice(top, top + height), slice(left, left + width), bits)
            for left in range(top - top % width, n, width)
        ]
        band = np.concatenate(tiles)
        band = band[band[:, 0] < band[:, 1]]
        # Sorted band by band: no second copy of all pairs is needed to sort them.
        bands.append(places[band[np.argsort(band[:, 0], kind="stable")]])
    return np.concatenate(bands)


def _in_tile(hashes: NDArray[np.uint64], rows: slice, columns: slice, bits: int) -> NDArray[np.int32]:
    """Return the similar pairs of a tile, ordered by row and column."""
    alike = np.bitwise_count(hashes[0, rows, None] ^ hashes[0, None, columns]) <= bits
    at = np.argwhere(alike) if alike.any() else np.empty((0, 2), np.int64)
    pairs: NDArray[np.int32] = (at + np.array([rows.start, columns.start])).astype(np.int32)
    for channel in hashes[1:]:
        pairs = pairs[np.bitwise_count(channel[pairs[:, 0]] ^ channel[pairs[:, 1]]) <= bits]
    return pairs


def bit_distances(hashes: NDArray[np.uint64], pairs: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
    """Return in how many bits the hashes of pairs differ.

    Parameters
    ----------
    hashes
        Shape (N, C), one column per channel.
    pairs
        Pairs of positions, shape (P, 2).

    Returns
    -------
    ndarray
        Shape (P, C), uint8.

    Examples
    --------
    >>> import numpy as np
    >>> from hpa.splitting.hashes import bit_distances
    >>> hashes = np.array([[0b1100], [0b1010]], dtype=np.uint64)
    >>> bit_distances(hashes, np.array([[0, 1]]))
    array([[2]], dtype=uint8)
    """
    distances: NDArray[np.uint8] = np.bitwise_count(hashes[pairs[:, 0]] ^ hashes[pairs[:, 1]])
    return distances
