"""Score the segmentation of images whose nuclei or cells differ in brightness, as some out of focus do."""

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bench.segmentation.images import as_documented, planes_of, print_scores
from hpa.atlas.scene import Scene
from segment.config import SegmentSection
from segment.inference.diameter import typical_diameter_px
from segment.inference.predict import segment_images
from segment.inference.preprocess import prepare_input
from segment.network.compact import CompactNetwork
from segment.watershed import watershed_cells

DIMMEST: Final = 0.05
"""Smallest share of its light that a nucleus or a cell keeps; the logarithms of the shares are drawn evenly."""

_HALO_PX: Final = 25  # light around a nucleus, or a cell, that gets dimmer with it
_EDGE_PX: Final = 2.0


def dimmed(scene: Scene, seed: int, *, cells: bool) -> NDArray[np.uint8]:
    """Dim each nucleus, or each cell with its nucleus, by a factor of its own.

    Returns
    -------
    ndarray
        Shape (2, H, W), uint8: ER and nucleus planes.
    """
    rng = np.random.default_rng(seed)
    labels = scene.cells if cells else scene.nuclei
    shares = np.exp(rng.uniform(np.log(DIMMEST), 0, int(scene.cells.max()) + 1))
    distance, nearest = ndimage.distance_transform_edt(labels == 0, return_indices=True)
    share = np.where(distance < _HALO_PX, shares[labels[tuple(nearest)]], 1).astype(np.float32)
    planes = planes_of(scene).astype(np.float32)
    planes[slice(0 if cells else 1, 2)] *= cv2.GaussianBlur(share, (0, 0), _EDGE_PX)
    return np.rint(planes).astype(np.uint8)


def brightness(net: CompactNetwork, drawn: list[Scene]) -> None:
    """Print the scores with dimmed nuclei, and with dimmed cells."""
    for name, cells in (("dimmed nuclei", False), ("dimmed cells", True)):
        images = [dimmed(scene, number, cells=cells) for number, scene in enumerate(drawn)]
        diameter = typical_diameter_px(*images[0].shape[1:])
        seen = [prepare_input(image, diameter) for image in images]
        found = {
            "default path": [masks.cells for masks in segment_images(net, seen, SegmentSection())],
            "watershed without a network": [watershed_cells(image) for image in seen],
            "Cellpose as documented": as_documented(net, images),
        }
        print_scores(f"brightness, {len(drawn)} synthetic images with {name}", found, drawn)
