"""Planes of images to masks: the array core of the stage."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from segment.cellpose_core import BaseModel, run_tiles
from segment.config import SegmentSection
from segment.decode import Masks, decode
from segment.reduce import have_signal, network_shape, normalise, reduce_planes

_BATCH: Final = 8


@dataclass(frozen=True)
class Seen:
    """An image as the network sees it.

    Parameters
    ----------
    planes
        Shape (2, h, w), ER and nucleus, reduced and normalised.
    shape
        Height and width of the source.
    has_signal
        Whether every plane shows more than noise.
    """

    planes: NDArray[np.float32]
    shape: tuple[int, int]
    has_signal: bool


def see(planes: NDArray[Any], diameter_px: float) -> Seen:
    """Reduce an image to what the network sees; the source is then no longer needed.

    Parameters
    ----------
    planes
        Shape (2, H, W), ER and nucleus, uint8 or uint16.
    diameter_px
        Equivalent diameter of a typical cell in the image.
    """
    shape = (planes.shape[1], planes.shape[2])
    reduced = reduce_planes(planes, network_shape(*shape, diameter_px))
    signal = have_signal(reduced)
    # The noise of a plane without a signal would be stretched to full contrast, and taken for cells.
    return Seen(np.where(signal[:, None, None], normalise(reduced), np.float32(0)), shape, bool(signal.all()))


def answers(net: BaseModel, images: Sequence[Seen]) -> list[NDArray[np.float32]]:
    """Run the network over images; those that it sees at one size share its batches.

    Parameters
    ----------
    net
        A network (`segment.network`, or a big one).
    images
        The images.

    Returns
    -------
    list of ndarray
        For each image its answer, shape (K, h, w) (`segment.decode.decode`).
    """
    found: dict[int, NDArray[np.float32]] = {}
    for shape in sorted({image.planes.shape for image in images}):
        alike = [index for index, image in enumerate(images) if image.planes.shape == shape]
        planes = np.stack([images[index].planes for index in alike])
        found.update(zip(alike, run_tiles(net, planes, _BATCH), strict=True))
    return [found[index] for index in range(len(images))]


def segment_images(net: BaseModel, images: Sequence[Seen], section: SegmentSection) -> Iterator[Masks]:
    """Find the cells and nuclei of images.

    Parameters
    ----------
    net
        A network (`segment.network`, or a big one).
    images
        The images.
    section
        How masks are made.

    Yields
    ------
    Masks
        At the size of the source, in the order of the images.
    """
    for answer, image in zip(answers(net, images), images, strict=True):
        yield decode(answer, image.planes[1], section, image.shape)
