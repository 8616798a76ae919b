"""Planes of images to masks: the array core of the stage."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from segment.cellpose_core import BaseModel, run_tiles
from segment.config import SegmentSection
from segment.decode import Masks, decode
from segment.reduce import network_shape, normalise, reduce_planes

_BATCH: Final = 8


def segment_images(
    net: BaseModel, images: Sequence[NDArray[Any]], section: SegmentSection, diameter_px: Sequence[float]
) -> list[Masks]:
    """Find the cells and nuclei of images.

    Parameters
    ----------
    net
        A network (`segment.network`).
    images
        Each of shape (2, H, W), ER and nucleus, uint8 or uint16; sizes may differ.
    section
        How masks are made.
    diameter_px
        Equivalent diameter of a typical cell in each image.

    Returns
    -------
    list of Masks
        At the size of the images, in their order.
    """
    seen = [
        normalise(reduce_planes(planes, network_shape(planes.shape[1], planes.shape[2], diameter)))
        for planes, diameter in zip(images, diameter_px, strict=True)
    ]
    answers = _answers(net, seen)
    return [
        decode(answer, planes[1], section, (image.shape[1], image.shape[2]))
        for answer, planes, image in zip(answers, seen, images, strict=True)
    ]


def _answers(net: BaseModel, seen: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    # Images of one size share batches, whatever stands between them.
    answers: dict[int, NDArray[np.float32]] = {}
    for shape in sorted({planes.shape for planes in seen}):
        alike = [index for index, planes in enumerate(seen) if planes.shape == shape]
        answers.update(zip(alike, run_tiles(net, np.stack([seen[index] for index in alike]), _BATCH), strict=True))
    return [answers[index] for index in range(len(seen))]
