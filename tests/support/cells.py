"""Make small images of cells, random or laid out by hand, and work folders from them."""

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from hypothesis import strategies as st

from hpa.channels import CHANNELS
from hpa.config import DataSection
from hpa.images import write_images
from hpa.layouts.index import index_dataset
from hpa.work.folder import WorkFolder
from segment.masks import join_flags, write_masks, write_pair

World = tuple[np.ndarray, np.ndarray, np.ndarray]
"""An image: pixels (4, H, W), cells (H, W) and nuclei (H, W)."""

SMALL = "[crops]\nsize_px = 16\n"


@st.composite
def label_images(draw: st.DrawFn) -> World:
    """Draw random pixels, nuclei, and cells of any shape, possibly in pieces and with gaps between labels."""
    height, width = draw(st.integers(3, 24)), draw(st.integers(3, 24))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    coarse = random.integers(0, draw(st.sampled_from([1, 2, 4])) + 1, (-(-height // 3), -(-width // 3)))
    blocks = coarse.repeat(3, axis=0).repeat(3, axis=1)[:height, :width]
    labels = blocks if draw(st.booleans()) else random.integers(0, 4, (height, width))
    labels = (labels * draw(st.sampled_from([1, 7, 20_000]))).astype(np.uint16)
    nuclei = np.where(random.random((height, width)) < 0.3, labels, 0).astype(np.uint16)
    return random.integers(0, 256, (4, height, width), dtype=np.uint8), labels, nuclei


def cells_of(shape: tuple[int, int], *boxes: tuple[int, int, int, int]) -> np.ndarray:
    """Lay out rectangular cells 1..n (first row, first column, end row, end column)."""
    labels = np.zeros(shape, np.uint16)
    for label, (first_row, first_col, end_row, end_col) in enumerate(boxes, start=1):
        labels[first_row:end_row, first_col:end_col] = label
    return labels


def world(labels: np.ndarray, seed: int = 0, *, deep: bool = False) -> World:
    """Fill cells with random pixels, 8 or 16 bit; the middle row of each cell is its nucleus."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 65_536 if deep else 256, (4, *labels.shape), dtype=np.uint16 if deep else np.uint8)
    nuclei = np.zeros_like(labels)
    for label in np.unique(labels)[1:]:
        rows = np.nonzero((labels == label).any(axis=1))[0]
        middle = rows[len(rows) // 2]
        nuclei[middle] = np.where(labels[middle] == label, label, nuclei[middle])
    return pixels, labels, nuclei


def worlds() -> dict[str, World]:
    """Return images of 40 x 60 px: ordinary, without cells, with a speck, with a cell that fills the frame."""
    shape = (40, 60)
    ordinary = cells_of(shape, (5, 5, 20, 25), (10, 30, 32, 50), (20, 0, 36, 12))
    speck = cells_of(shape, (5, 5, 20, 25), (30, 30, 31, 31), (22, 10, 38, 28))
    return {
        "empty": world(np.zeros(shape, np.uint16), 1),
        "filled": world(np.ones(shape, np.uint16), 2),
        "ordinary": world(ordinary, 3),
        "speck": world(speck, 4),
    }


def make_work(root: Path, worlds: Mapping[str, World], recipe: str = "") -> WorkFolder:
    """Make a work folder in which the images are already segmented."""
    data = root / "images"
    data.mkdir(parents=True)
    for image_id, (pixels, _, _) in worlds.items():
        for channel, plane in zip(CHANNELS, pixels, strict=True):
            cv2.imwrite(str(data / f"{image_id}_{channel}.png"), plane)
    section, work = DataSection(), WorkFolder(root / "work")
    images = index_dataset(data, "folder", section.classes, section.channels).images
    write_images(work.images, images, section.classes, section.channels)
    work.recipe.write_text(recipe)
    rows = []
    for image_id in images["image_id"]:
        _, cells, nuclei = worlds[image_id]
        row = write_pair(work, image_id, cells, nuclei)
        rows.append(row | {"flags": join_flags({"no cell": row["n_cells"] == 0})})
    write_masks(work, pd.DataFrame(rows)[["image_id", "n_cells", "diameter_px", "flags", "crc32"]])
    return work
