"""Small data folders in the supported layouts."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from hpa.channels import CHANNELS


def noise(seed: int, size: tuple[int, int] = (6, 8)) -> NDArray[np.uint8]:
    """Return a plane of noise."""
    return np.random.default_rng(seed).integers(0, 255, size, dtype=np.uint8)


def write_image(folder: Path, image_id: str, suffix: str = ".png", channels: Sequence[str] = CHANNELS) -> None:
    """Write one gray file per channel."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, channel in enumerate(channels):
        cv2.imwrite(str(folder / f"{image_id}_{channel}{suffix}"), noise(i))


def write_kaggle2018(
    root: Path, train: str = "Id,Target\nb,16 0\na,3\n", sample: str = "Id,Predicted\nz,0\ny,0\n"
) -> Path:
    """Write the layout of 2018, with the train images a and b and the test images y and z."""
    for image_id in "ab":
        write_image(root / "train", image_id)
    for image_id in "yz":
        write_image(root / "test", image_id)
    (root / "train.csv").write_text(train)
    (root / "sample_submission.csv").write_text(sample)
    return root


def write_jovian(root: Path) -> Path:
    """Write the layout of the Jovian competition: the train images 7 and 8, the test image 9; (10, 20, 30) is RGB."""
    inner = root / "Human protein atlas"
    for name in ("train/7", "train/8", "test/9"):
        path = inner / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((5, 4, 3), (30, 20, 10), np.uint8))
    (inner / "train.csv").write_text("Image,Label\n8,4\n7,7 0\n")
    (root / "submission.csv").write_text("Image,Label\n9,0\n")
    return root
