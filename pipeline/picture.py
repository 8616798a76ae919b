"""Draw one image on its way through the pipeline: image, masks, crops, probabilities, labels."""

import textwrap
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from aggregate.cell_labels import read_cells
from classify.probabilities import class_columns
from crops.store import apply_outside_cell, open_store
from hpa.channels import STAINS
from hpa.errors import ImageError, UserError
from hpa.images import read_images
from hpa.pictures import Color, Picture, composite, outlined, save_figure, scale_bar
from hpa.pixels import read_channels
from hpa.vocabulary import Vocabulary
from hpa.work.files import read_parquet
from hpa.work.folder import WorkFolder
from segment.masks import read_mask, read_nuclei

_CELL: Final[Color] = (255, 255, 255)
_NUCLEUS: Final[Color] = (255, 160, 0)
_CROPS: Final = 9
_CLASSES: Final = 6
_PREDICTED: Final = "#2a9d5c"
_OTHER: Final = "#b8bec7"


def draw_journey(work: WorkFolder, image_id: str, out: Path) -> None:
    """Draw an image, its cells, some crops, their probabilities and the labels of the image.

    Parameters
    ----------
    work
        A finished work folder that predicts windows around cells.
    image_id
        An image that was scored by a model that had not seen it; if empty, the test image with the highest probability
        of any class.
    out
        The PNG to write.

    Raises
    ------
    UserError
        If the run is not finished, or has no such image with cells.
    """
    vocabulary, channels = work.data.classes, work.data.channels
    columns = class_columns(vocabulary)
    cells = read_cells(work)
    scores = read_parquet(work.root / "aggregate" / "images.parquet", "python -m aggregate run").set_index("image_id")
    scores = scores.loc[scores.index.isin(cells["image_id"])]
    if not image_id and len(scores):
        candidates = scores[scores["origin"] == "test"] if (scores["origin"] == "test").any() else scores
        image_id = str(candidates[columns].max(axis=1).idxmax())
    if image_id not in scores.index:
        raise UserError(f"expected the id of an image with cells in {work.root}, found {image_id!r}")
    cells = cells[cells["image_id"] == image_id]
    row = read_images(work.images).set_index("image_id", drop=False).loc[image_id].to_dict()
    try:
        planes = read_channels(row, channels)
        nuclei, mask = read_nuclei(work, image_id), read_mask(work, image_id)
    except ImageError as error:
        raise UserError(f"expected a readable image and masks of {image_id}, found: {error}") from None
    # Together the cells of an image have the classes of the image.
    predicted = tuple(sorted({c for text in cells["predicted"] for c in vocabulary.parse(text)}))
    picture = composite(planes, channels)
    outlines = outlined(outlined(picture, nuclei, _NUCLEUS), mask, _CELL)
    shown = _likeliest_cells(cells, predicted, vocabulary)
    store = open_store(work, "cells")
    rows = store.rows_of(image_id)
    rows = rows[np.isin(store.table["cell_label"].to_numpy()[rows], shown)]
    pixels = apply_outside_cell(store.pixels(rows), store.masks(rows), "dim")
    tiles = [composite(crop, channels) for crop in pixels]

    figure = Figure(figsize=(15, 3.9), layout="constrained", dpi=110)
    figure.suptitle(f"{image_id}, {work.root.resolve().name}".replace("$", r"\$"), x=0.005, ha="left", fontsize=11)
    axes = figure.subplots(1, 5, width_ratios=[3, 3, 3, 3.4, 3.4])
    _show(axes[0], picture, "image", ", ".join(f"{name} {STAINS[name]}" for name in channels))
    _show(axes[1], outlines, f"masks: {len(cells)} cells", "outlines: cells white, nuclei light blue")
    _draw_scale_bar(axes[0], picture.shape[:2], work.data.pixel_um)
    _show(axes[2], _tiled(tiles), f"crops: {len(tiles)} of {len(cells)}")
    of_image = scores.loc[image_id, columns].to_numpy(np.float64)
    # All predicted classes, then the likeliest others; the likeliest at the top.
    likeliest = np.argsort(-of_image, kind="stable").tolist()
    chosen = [*predicted, *(c for c in likeliest if c not in predicted)][: max(_CLASSES, len(predicted))]
    order = np.array(sorted(chosen, key=likeliest.index))
    _draw_cells(axes[3], cells.iloc[np.isin(cells["cell_label"], shown)], order, vocabulary)
    _draw_labels(axes[4], of_image, order, predicted, vocabulary)
    save_figure(figure, out)


def _likeliest_cells(cells: pd.DataFrame, predicted: tuple[int, ...], vocabulary: Vocabulary) -> list[int]:
    """Return the labels of the cells with the highest probability of any predicted class, in ascending order."""
    columns = [class_columns(vocabulary)[c] for c in predicted] or class_columns(vocabulary)
    best = cells.assign(best=cells[columns].max(axis=1)).nlargest(_CROPS, "best")
    return sorted(int(label) for label in best["cell_label"])


def _tiled(tiles: list[Picture]) -> Picture:
    side = int(np.ceil(np.sqrt(len(tiles))))
    height, width = tiles[0].shape[:2]
    canvas = np.full((side * (height + 2), side * (width + 2), 3), 255, dtype=np.uint8)
    for i, tile in enumerate(tiles):
        top, left = (i // side) * (height + 2), (i % side) * (width + 2)
        canvas[top : top + height, left : left + width] = tile
    return canvas


def _show(axes: Axes, picture: Picture, title: str, legend: str = "") -> None:
    axes.imshow(picture[..., ::-1])  # OpenCV's order is blue, green, red
    axes.set_title(title)
    axes.set(xticks=(), yticks=())
    axes.spines[:].set_visible(False)
    axes.set_xlabel(textwrap.fill(legend, 40), fontsize=7)


def _draw_scale_bar(axes: Axes, shape: tuple[int, ...], pixel_um: float) -> None:
    height, width = shape[:2]
    bar = scale_bar(max(shape), pixel_um)
    left, bottom = width * 0.96 - bar.length_px, height * 0.95
    right = left + bar.length_px
    for color, thickness in (("black", 4.5), ("white", 2.5)):
        axes.plot([left, right], [bottom, bottom], color=color, linewidth=thickness, solid_capstyle="butt")
    label = axes.text((left + right) / 2, bottom - height * 0.025, bar.text, color="white", ha="center", fontsize=7)
    label.set_path_effects([withStroke(linewidth=1.5, foreground="black")])


def _draw_cells(axes: Axes, cells: pd.DataFrame, order: np.ndarray, vocabulary: Vocabulary) -> None:
    columns = [class_columns(vocabulary)[c] for c in order]
    axes.imshow(cells[columns].to_numpy(np.float64).T, vmin=0, vmax=1, cmap="viridis", aspect="auto")
    axes.set_yticks(range(len(order)), [vocabulary.classes[c] for c in order], fontsize=8)
    axes.set_xticks(range(len(cells)), [str(label) for label in cells["cell_label"]], fontsize=8)
    axes.set_xlabel("cell", fontsize=8)
    axes.set_title("probabilities of the crops")


def _draw_labels(
    axes: Axes, scores: np.ndarray, order: np.ndarray, predicted: tuple[int, ...], vocabulary: Vocabulary
) -> None:
    colors = [_PREDICTED if c in predicted else _OTHER for c in order]
    axes.barh(range(len(order)), scores[order], color=colors)
    axes.set_yticks(range(len(order)), [])
    for i, c in enumerate(order):
        weight = "bold" if c in predicted else "normal"
        axes.text(0.02, i, vocabulary.classes[c], va="center", fontsize=8, weight=weight)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("probability; predicted labels in green", fontsize=8)
    axes.set_title("labels of the image")
