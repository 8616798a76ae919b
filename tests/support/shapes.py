"""Small images, masks and work folders with known truth."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from hpa.config import DataSection
from hpa.images import write_images
from hpa.layouts.index import index_dataset
from hpa.work.folder import WorkFolder
from segment.network.cellpose import flows_from_labels
from segment.postprocess.nuclei import nucleus_cores
from segment.training.augment import Sample, nucleus_distance


def discs(shape: tuple[int, int], centres: list[tuple[float, float]], radius_px: float) -> NDArray[np.uint16]:
    """Return discs labelled 1..n; where discs overlap, a pixel belongs to the nearer centre."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    distance = np.stack([np.hypot(rows - r, columns - c) for r, c in centres])
    return np.where(distance.min(axis=0) <= radius_px, distance.argmin(axis=0) + 1, 0).astype(np.uint16)


TOUCHING = discs((64, 64), [(20, 20), (20, 33), (48, 40)], 7)
"""Three nuclei, of which the first two touch."""


def make_sample(side_px: int = 48) -> Sample:
    """Return a training sample with two cells."""
    centres = [(14.0, 12.0), (30.0, 33.0)]
    cells, nuclei = discs((side_px, side_px), centres, 10), discs((side_px, side_px), centres, 4)
    planes = np.stack([(cells > 0) * 90.0, (nuclei > 0) * 180.0, (cells > 0) * 60.0]).astype(np.float16)
    flows = flows_from_labels(cells).astype(np.float16)
    return Sample(planes, cells, nuclei, flows, nucleus_cores(nuclei), nucleus_distance(cells, nuclei))


def write_image(folder: Path, image_id: str, er: NDArray[np.uint8], nucleus: NDArray[np.uint8]) -> None:
    """Write the four channels of an image; microtubules and protein are black."""
    folder.mkdir(parents=True, exist_ok=True)
    planes = {"yellow": er, "blue": nucleus, "red": np.zeros_like(er), "green": np.zeros_like(er)}
    for channel, plane in planes.items():
        cv2.imwrite(str(folder / f"{image_id}_{channel}.png"), plane)


def make_work(root: Path, data: Path, recipe: str = "") -> WorkFolder:
    """Make a work folder for a folder of images."""
    section = DataSection()
    work = WorkFolder(root)
    write_images(
        work.images,
        index_dataset(data, "folder", section.classes, section.channels).images,
        section.classes,
        section.channels,
    )
    work.recipe.write_text(recipe)
    return work
