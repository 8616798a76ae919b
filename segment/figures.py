"""Pictures to look at: outlines over ER and nucleus, odd images first."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hpa.channels import Channel
from hpa.files import write_bytes
from hpa.pixels import read_channels
from hpa.work import WorkFolder
from segment.masks import read_mask, read_nuclei, stage_folder

_TILE_PX: Final = 384
_COLUMNS: Final = 4
_TILES: Final = 12
_CELL: Final = (255, 255, 255)
_NUCLEUS: Final = (255, 160, 0)


def overlay(
    planes: NDArray[Any], cells: NDArray[np.uint16], nuclei: NDArray[np.uint16], text: str, size_px: int = _TILE_PX
) -> NDArray[np.uint8]:
    """Draw the outlines of cells and nuclei over an image.

    Parameters
    ----------
    planes
        Shape (2, H, W), ER and nucleus.
    cells, nuclei
        Shape (H, W), labels.
    text
        Written into the corner.
    size_px
        Height and width of the picture; a frame that is not square is padded.

    Returns
    -------
    ndarray
        Shape (size_px, size_px, 3), RGB.
    """
    scale = size_px / max(cells.shape)
    size = (max(1, round(cells.shape[1] * scale)), max(1, round(cells.shape[0] * scale)))
    picture = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    for channel, plane in ((1, planes[0]), (2, planes[1])):  # ER green, nucleus blue
        small = cv2.resize(plane.astype(np.float32), size, interpolation=cv2.INTER_AREA)
        top = max(float(np.percentile(small, 99.7)), 1e-6)
        picture[..., channel] = 255 * np.clip(small / top, 0, 1) ** 0.6  # the root shows dim cells
    for labels, colour in ((nuclei, _NUCLEUS), (cells, _CELL)):
        picture[_edges(cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST_EXACT))] = colour
    frame = np.zeros((size_px, size_px, 3), dtype=np.uint8)
    frame[: size[1], : size[0]] = picture
    cv2.putText(frame, text, (6, size_px - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 3, cv2.LINE_AA)
    cv2.putText(frame, text, (6, size_px - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 0), 1, cv2.LINE_AA)
    return frame


def _edges(labels: NDArray[Any]) -> NDArray[np.bool_]:
    edges = np.zeros(labels.shape, dtype=bool)
    edges[:-1] |= labels[:-1] != labels[1:]
    edges[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    return edges


def write_figures(work: WorkFolder, images: pd.DataFrame, masks: pd.DataFrame, channels: Sequence[Channel]) -> None:
    """Write the pictures of the stage into ``segment/figures/``.

    ``overlays.png``: outlines on ER and nucleus, flagged images first, the rest evenly over the table.
    ``cells.png``: how many cells the images have, and how large they are.

    Parameters
    ----------
    work
        The work folder.
    images
        The image table.
    masks
        The table of masks.
    channels
        What the network read.
    """
    folder = stage_folder(work) / "figures"
    _write_overlays(folder / "overlays.png", work, images, masks, channels)
    _write_histograms(folder / "cells.png", masks)


def _write_overlays(
    path: Path, work: WorkFolder, images: pd.DataFrame, masks: pd.DataFrame, channels: Sequence[Channel]
) -> None:
    shown: list[Channel] = [next(channel for channel in channels if channel != "blue"), "blue"]
    flagged = masks.index[masks["flags"] != ""][: _TILES // 2]
    others = masks.index.difference(flagged)
    even = np.linspace(0, max(0, len(others) - 1), min(len(others), _TILES - len(flagged))).round().astype(int)
    chosen = masks.loc[[*flagged, *others[even]]]
    if chosen.empty:
        return
    tiles = []
    for row in chosen.merge(images, on="image_id").to_dict("records"):
        cells, nuclei = read_mask(work, row["image_id"]), read_nuclei(work, row["image_id"])
        text = " ".join(filter(None, [row["image_id"][:28], f"{row['n_cells']} cells", row["flags"]]))
        tiles.append(overlay(read_channels(row, shown), cells, nuclei, text))
    blank = np.zeros_like(tiles[0])
    tiles += [blank] * (-len(tiles) % _COLUMNS)
    rows = [np.hstack(tiles[start : start + _COLUMNS]) for start in range(0, len(tiles), _COLUMNS)]
    _, content = cv2.imencode(".png", np.vstack(rows)[..., ::-1])
    write_bytes(path, content.tobytes())


def _write_histograms(path: Path, masks: pd.DataFrame) -> None:
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    most = int(masks["n_cells"].max()) if len(masks) else 0
    left.hist(masks["n_cells"], bins=np.arange(-0.5, max(most, 1) + 1, max(1, most // 40)), color="tab:blue")
    left.set(xlabel="cells in an image", ylabel="images", title=f"{masks['n_cells'].sum():,} cells")
    diameters = masks["diameter_px"].dropna()
    right.hist(diameters, bins=40, color="tab:green")
    title = f"median of images {diameters.median():.0f} px" if len(diameters) else "no cells"
    right.set(xlabel="median diameter of the cells of an image, px", ylabel="images", title=title)
    content = BytesIO()
    figure.savefig(content, format="png", dpi=100, metadata={"Software": None})
    write_bytes(path, content.getvalue())
