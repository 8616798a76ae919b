"""Small worlds with known truth."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from hpa.config import DataSection
from hpa.images import write_images
from hpa.layouts.index import index_dataset
from hpa.work.folder import WorkFolder


def discs(shape: tuple[int, int], centres: list[tuple[float, float]], radius_px: float) -> NDArray[np.uint16]:
    """Label discs 1..n; where two overlap a pixel goes to the nearer centre."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    away = np.stack([np.hypot(rows - r, columns - c) for r, c in centres])
    return np.where(away.min(axis=0) <= radius_px, away.argmin(axis=0) + 1, 0).astype(np.uint16)


def write_image(folder: Path, image_id: str, er: NDArray[np.uint8], nucleus: NDArray[np.uint8]) -> None:
    """Write the four channels of an image; microtubules and protein are black."""
    folder.mkdir(parents=True, exist_ok=True)
    planes = {"yellow": er, "blue": nucleus, "red": np.zeros_like(er), "green": np.zeros_like(er)}
    for channel, plane in planes.items():
        cv2.imwrite(str(folder / f"{image_id}_{channel}.png"), plane)


def make_work(root: Path, data: Path, recipe: str = "") -> WorkFolder:
    """Make a work folder of a folder of images."""
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
