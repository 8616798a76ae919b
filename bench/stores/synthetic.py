"""Make work folders and crop stores for measurements, from a few synthetic images used repeatedly."""

import io
from contextlib import redirect_stdout
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import pandas as pd

from crops.run import run as run_stage
from crops.store import store_folder
from hpa.atlas import draw_scene
from hpa.atlas.scene import Scene
from hpa.channels import CHANNELS
from hpa.config import DataSection
from hpa.images import write_images
from hpa.layouts.index import index_dataset
from hpa.work.folder import WorkFolder
from segment.masks import write_masks, write_pair

STREAM: Final = 7_304  # used by no training and no atlas


def scenes(count: int, size_px: int = 512) -> list[Scene]:
    """Draw synthetic images."""
    return [draw_scene((STREAM, number), size_px=size_px) for number in range(count)]


def make_work(root: Path, drawn: list[Scene], count: int, recipe: str = "") -> WorkFolder:
    """Make a work folder of `count` segmented images, repeating the drawn ones."""
    data, work, section = root / "images", WorkFolder(root / "work"), DataSection()
    data.mkdir(parents=True)
    for number in range(count):
        for channel, plane in zip(CHANNELS, drawn[number % len(drawn)].channels, strict=True):
            path = data / f"i{number:05d}_{channel}.png"
            if number < len(drawn):
                cv2.imwrite(str(path), plane)
            else:
                path.hardlink_to(data / f"i{number % len(drawn):05d}_{channel}.png")
    images = index_dataset(data, "folder", section.classes, section.channels).images
    write_images(work.images, images, section.classes, section.channels)
    work.recipe.write_text(recipe)
    rows = []
    for number in range(count):
        scene = drawn[number % len(drawn)]
        cells = scene.cells.astype(np.uint16)
        rows.append(write_pair(work, f"i{number:05d}", cells, np.where(scene.nuclei > 0, cells, 0).astype(np.uint16)))
    masks = pd.DataFrame(rows).assign(flags=["" if row["n_cells"] else "no cell" for row in rows])
    write_masks(work, masks[["image_id", "n_cells", "diameter_px", "flags", "crc32"]])
    return work


def run(work: WorkFolder, *, workers: int, overwrite: bool = False, compress: bool = False) -> None:
    """Run the crops stage without printing."""
    with redirect_stdout(io.StringIO()):
        assert run_stage(work, workers=workers, overwrite=overwrite, compress=compress) == 0


def size(folder: Path) -> int:
    """Return the total size of the shards of a store in bytes."""
    return sum(path.stat().st_size for path in folder.glob("shard-*"))


def stores(folder: Path, drawn: list[Scene], count: int, size_px: int = 128, *, compress: bool = False) -> Path:
    """Make a crop store and return its folder."""
    work = make_work(folder, drawn, count, f"[crops]\nsize_px = {size_px}\n")
    run(work, workers=1, compress=compress)
    return store_folder(work, "cells")
