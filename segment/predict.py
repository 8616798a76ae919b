"""Planes of images to masks: the array core of the stage."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from segment.cellpose_core import BaseModel
from segment.config import SegmentSection
from segment.decode import Masks, decode
from segment.models import load_model
from segment.network import ER, INPUTS, NUCLEUS_PLANE
from segment.reduce import have_signal, network_shape, normalise, reduce_planes
from segment.tiles import run_tiles

_BATCH: Final = 8


@dataclass(frozen=True)
class Seen:
    """An image as the network sees it.

    Parameters
    ----------
    planes
        Shape (3, h, w): ER, nucleus, microtubules, reduced and normalised; 0 where a plane was not read.
    shape
        Height and width of the source.
    has_signal
        Whether every plane shows more than noise.
    """

    planes: NDArray[np.float32]
    shape: tuple[int, int]
    has_signal: bool


def see(planes: NDArray[Any], diameter_px: float, inputs: Sequence[int] = (ER, NUCLEUS_PLANE)) -> Seen:
    """Reduce an image to what the network sees; the source is then no longer needed.

    Parameters
    ----------
    planes
        Shape (C, H, W), uint8 or uint16.
    diameter_px
        Equivalent diameter of a typical cell in the image.
    inputs
        Which input of the network each plane is (`segment.network`); the others are 0.
    """
    shape = (planes.shape[1], planes.shape[2])
    reduced = reduce_planes(planes, network_shape(*shape, diameter_px))
    signal = have_signal(reduced)
    # The noise of a plane without a signal would be stretched to full contrast, and taken for cells.
    seen = np.zeros((INPUTS, *reduced.shape[1:]), dtype=np.float32)
    seen[list(inputs)] = np.where(signal[:, None, None], normalise(reduced), np.float32(0))
    return Seen(seen, shape, bool(signal.all()))


@lru_cache(maxsize=2)
def network(name: str, device: str) -> BaseModel:
    """Load a network once a process (`segment.models.load_model`)."""
    return load_model(name, torch.device(device))


def answers(net: BaseModel, images: Sequence[Seen]) -> list[NDArray[np.float32]]:
    """Run the network over images; tiles of all of them share its batches.

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
    return run_tiles(net, [image.planes for image in images], _BATCH)


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
        yield decode(answer, image.planes[NUCLEUS_PLANE], section, image.shape)
