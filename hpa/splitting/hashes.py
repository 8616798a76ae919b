"""Near-duplicates: perceptual hashes of planes, all pairs of images that look alike. The one place for ImageHash."""

from typing import Any, Final

import cv2
import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hpa.channels import Channel
from hpa.pixels import Pixels

HASHED: Final[tuple[Channel, ...]] = ("red", "green", "blue")
"""The channels that are compared, as far as the run has them."""

_REDUCED_PX: Final = 32  # the size that imagehash.phash reduces to itself, four times its 8 x 8 frequencies
_MIN_RANGE: Final = 2.0
"""Gray levels, after averaging to 32 x 32, below which a plane is flat."""

_TILE: Final = (64, 4096)


def hash_plane(plane: Pixels) -> int | None:
    """Return the perceptual hash of a plane, 64 bits of the signs of its low frequencies; None if it is flat or black.

    A flat plane has no pattern: hashes of two such planes would be alike whatever they show.

    Parameters
    ----------
    plane
        Shape (H, W), uint8 or uint16.
    """
    half_way = 4 * _REDUCED_PX  # in whole gray levels, which is quicker and rounds off less than a tenth of a level
    small: NDArray[Any] = plane
    if min(plane.shape) > half_way:
        small = cv2.resize(plane, (half_way, half_way), interpolation=cv2.INTER_AREA)
    reduced = cv2.resize(small.astype(np.float32), (_REDUCED_PX, _REDUCED_PX), interpolation=cv2.INTER_AREA)
    low, high = float(reduced.min()), float(reduced.max())
    if high - low < _MIN_RANGE:
        return None
    stretched = ((reduced - low) * (255 / (high - low))).round().astype(np.uint8)
    bits = imagehash.phash(Image.fromarray(stretched)).hash
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def similar_pairs(hashes: NDArray[np.uint64], usable: NDArray[np.bool_], bits: int) -> NDArray[np.int64]:
    """Return all pairs of images whose hashes differ in at most `bits` bits in every channel.

    Every pair is compared, by exclusive or and a count of bits, tile by tile: no index, nothing missed.

    Parameters
    ----------
    hashes
        Shape (N, C), one column a channel.
    usable
        Shape (N,); images with a flat or unreadable plane match nothing.
    bits
        Most bits that may differ.

    Returns
    -------
    ndarray
        Shape (P, 2), positions with the smaller one first, sorted.
    """
    places = np.flatnonzero(usable)
    kept = np.ascontiguousarray(hashes[places].T)
    found = [np.empty((0, 2), dtype=np.int64)]
    height, width = _TILE
    n = len(places)
    for top in range(0, n, height):
        for left in range(top - top % width, n, width):
            found.append(_in_tile(kept, slice(top, top + height), slice(left, left + width), bits))
    pairs = np.concatenate(found)
    pairs = places[pairs[pairs[:, 0] < pairs[:, 1]]]
    return np.asarray(pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))], dtype=np.int64)


def _in_tile(hashes: NDArray[np.uint64], rows: slice, columns: slice, bits: int) -> NDArray[np.int64]:
    distances = np.bitwise_count(hashes[0, rows, None] ^ hashes[0, None, columns])
    pairs = np.argwhere(distances <= bits) if distances.min(initial=255) <= bits else np.empty((0, 2), np.int64)
    pairs = np.asarray(pairs + np.array([rows.start, columns.start]), dtype=np.int64)
    for channel in hashes[1:]:
        pairs = pairs[np.bitwise_count(channel[pairs[:, 0]] ^ channel[pairs[:, 1]]) <= bits]
    return pairs


def bit_distances(hashes: NDArray[np.uint64], pairs: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return in how many bits the hashes of pairs differ; hashes (N, C) and pairs (P, 2) give shape (P, C)."""
    distances: NDArray[np.uint8] = np.bitwise_count(hashes[pairs[:, 0]] ^ hashes[pairs[:, 1]])
    return distances
