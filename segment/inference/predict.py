"""Planes of images to masks: the array core of the stage."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from segment.config import SegmentSection
from segment.inference.preprocess import have_signal, normalise, reduce_planes
from segment.inference.tiles import run_tiles
from segment.network.cellpose import BaseModel
from segment.network.compact import ER, INPUTS, NUCLEUS_PLANE
from segment.network.scale import network_shape
from segment.network.weights import load_model
from segment.postprocess.decode import Masks, decode

_BATCH: Final = 8


@dataclass(frozen=True)
class NetworkInput:
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


def prepare_input(
    planes: NDArray[Any], diameter_px: float, inputs: Sequence[int] = (ER, NUCLEUS_PLANE)
) -> NetworkInput:
    """Reduce an image to what the network sees; the source is then no longer needed.

    Parameters
    ----------
    planes
        Shape (C, H, W), uint8 or uint16.
    diameter_px
        Equivalent diameter of a typical cell in the image.
    inputs
        Which input of the network each plane is (`segment.network.compact`); the others are 0.
    """
    shape = (planes.shape[1], planes.shape[2])
    reduced = reduce_planes(planes, network_shape(*shape, diameter_px))
    signal = have_signal(reduced)
    # The noise of a plane without a signal would be stretched to full contrast, and taken for cells.
    seen = np.zeros((INPUTS, *reduced.shape[1:]), dtype=np.float32)
    seen[list(inputs)] = np.where(signal[:, None, None], normalise(reduced), np.float32(0))
    return NetworkInput(seen, shape, bool(signal.all()))


@lru_cache(maxsize=2)
def network(name: str, device: str) -> BaseModel:
    """Load a network once a process (`segment.network.weights.load_model`)."""
    return load_model(name, torch.device(device))


def run_network(net: BaseModel, images: Sequence[NetworkInput]) -> list[NDArray[np.float32]]:
    """Run the network over images; tiles of all of them share its batches.

    Parameters
    ----------
    net
        A network (`segment.network.compact`, or a big one).
    images
        The images.

    Returns
    -------
    list of ndarray
        For each image its answer, shape (K, h, w) (`segment.postprocess.decode.decode`).
    """
    return run_tiles(net, [image.planes for image in images], _BATCH)


def segment_images(net: BaseModel, images: Sequence[NetworkInput], section: SegmentSection) -> Iterator[Masks]:
    """Find the cells and nuclei of images.

    Parameters
    ----------
    net
        A network (`segment.network.compact`, or a big one).
    images
        The images.
    section
        How masks are made.

    Yields
    ------
    Masks
        At the size of the source, in the order of the images.
    """
    for answer, image in zip(run_network(net, images), images, strict=True):
        yield decode(answer, image.planes[NUCLEUS_PLANE], section, image.shape)
