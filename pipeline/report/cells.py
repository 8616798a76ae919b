"""The cells: outlines over images, counts, and crops of every class."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from crops.export import join_image_labels
from crops.store import CropStore, apply_outside_cell, open_store
from crops.table import read_dropped
from hpa.channels import Channel
from hpa.errors import ImageError
from hpa.pictures import Color, Picture, composite, fitted, outlined, with_scale_bar
from hpa.pixels import read_channels
from pipeline.report.charts import Axes, Panel
from pipeline.report.evidence import Evidence, Missing
from pipeline.report.media import Photo, photo
from segment.masks import DISAGREE, FLAGS, read_mask, read_masks, read_nuclei

_SHOWN: Final = 9
"""Images with outlines."""

_PER_CLASS: Final = 6
_CELL: Final[Color] = (255, 255, 255)
_NUCLEUS: Final[Color] = (0, 160, 255)
_GAMMA: Final = 0.7


@dataclass(frozen=True)
class Outlines:
    """The outlines of cells.

    Parameters
    ----------
    photos
        Images with outlines: flagged ones first.
    flags
        Flag, what it means, and the number of images that have it.
    panels
        Histograms of cells per image and of diameters.
    n_cells, n_images
        Of the run.
    """

    photos: tuple[tuple[Photo, str, str], ...]
    flags: tuple[tuple[str, str, int], ...]
    panels: tuple[Panel, ...]
    n_cells: int
    n_images: int


@dataclass(frozen=True)
class ClassCrops:
    """Crops of images that have a class."""

    name: str
    crops: tuple[Photo, ...]
    total: int


@dataclass(frozen=True)
class Crops:
    """Crops by class.

    Parameters
    ----------
    classes
        Classes with crops.
    size_px
        Side of a crop.
    dropped
        Reasons for which cells were dropped, with their numbers.
    window
        How the crops were placed.
    labelled
        Whether the classes are known labels; otherwise they are predicted.
    """

    classes: tuple[ClassCrops, ...]
    size_px: int
    dropped: tuple[tuple[str, int], ...]
    window: str
    labelled: bool


_MEANINGS: Final = {
    "no signal": "only noise in a channel that was read",
    "no cell": "no cell was found",
    DISAGREE: "ER and microtubules show different cells: check the outlines",
    "crowded": "more cells than segment.crowded",
}


def make_outlines(evidence: Evidence, side_px: int) -> Outlines | Missing:
    """Draw the outlines of some images.

    Parameters
    ----------
    evidence
        The work folder.
    side_px
        Longer side of a picture.
    """
    if not evidence.work.root.joinpath("segment").is_dir() and evidence.window != "cells":
        return Missing(f"the recipe cuts crops of the window {evidence.window}, which follows no cells")
    masks = read_masks(evidence.work)
    flagged = masks[masks["flags"] != ""]
    flagged = flagged.loc[flagged["flags"].str.contains(DISAGREE).sort_values(ascending=False, kind="stable").index]
    chosen = flagged.head(_SHOWN * 2 // 3)
    others = masks[masks["flags"] == ""]
    even = _evenly(len(others), _SHOWN - len(chosen))
    rows = pd.concat([chosen, others.iloc[even]]).merge(evidence.images, on="image_id")
    photos = []
    for row in rows.to_dict("records"):
        try:
            picture = outlined_image(evidence, row, side_px)
        except ImageError:  # of an image that was removed since
            continue
        note = f"{row['n_cells']} cells" + (f"; {row['flags']}" if row["flags"] else "")
        photos.append((photo(picture, f"Outlines of {row['image_id']}: {note}"), row["image_id"], note))
    counts = [(flag, _MEANINGS[flag], int(masks["flags"].str.contains(flag).sum())) for flag in FLAGS]
    return Outlines(
        tuple(photos),
        tuple(count for count in counts if count[2]),
        (
            _histogram("Cells per image", masks["n_cells"].to_numpy(float), "cells in an image"),
            _histogram("Cell diameter", masks["diameter_px"].dropna().to_numpy(float), "median diameter, px"),
        ),
        int(masks["n_cells"].sum()),
        len(masks),
    )


def outlined_image(evidence: Evidence, row: dict[Any, Any], side_px: int) -> Picture:
    """Draw an image with the outlines of its cells (white) and nuclei (orange), and a scale bar.

    Raises
    ------
    ImageError
        If the image or its masks cannot be read.
    """
    channels = evidence.work.data.channels
    picture = composite(fitted(read_channels(row, channels), side_px), channels, _GAMMA)
    nuclei, cells = read_nuclei(evidence.work, row["image_id"]), read_mask(evidence.work, row["image_id"])
    picture = outlined(outlined(picture, nuclei, _NUCLEUS), cells, _CELL)
    return with_scale_bar(picture, max(cells.shape), evidence.work.data.pixel_um)


def make_crops(evidence: Evidence) -> Crops:
    """Show some crops of each class, spread evenly over the images that have it; predicted classes without labels."""
    store = open_store(evidence.work, evidence.window)
    table, vocabulary = join_image_labels(evidence.work, store), evidence.vocabulary
    of_image = table["classes"].str.split(";")
    labelled = bool((table["classes"] != "").any())
    if not labelled and (evidence.work.root / "aggregate" / "images.parquet").is_file():
        ids = list(dict.fromkeys(table["image_id"]))
        hot = evidence.predicted(ids)
        predicted = {
            key: [vocabulary.classes[c] for c in np.flatnonzero(row)] for key, row in zip(ids, hot, strict=True)
        }
        of_image = table["image_id"].map(predicted)
    classes = []
    for name in vocabulary.classes:
        rows = np.flatnonzero([name in names for names in of_image])
        rows = rows[~table["fallback"].to_numpy()[rows]] if (~table["fallback"].to_numpy()[rows]).any() else rows
        if len(rows):
            shown = rows[_evenly(len(rows), _PER_CLASS)]
            classes.append(ClassCrops(name, crop_photos(evidence, store, shown), len(rows)))
    if not classes and len(store):
        rows = _evenly(len(store), _PER_CLASS * 3)
        classes.append(ClassCrops("without known class", crop_photos(evidence, store, rows), len(store)))
    dropped = read_dropped(store.folder)["reason"].value_counts()
    return Crops(
        tuple(classes),
        store.shape[1],
        tuple((str(reason), int(count)) for reason, count in dropped.items()),
        evidence.window,
        labelled,
    )


def crop_photos(
    evidence: Evidence, store: CropStore, rows: NDArray[np.int64], notes: Iterable[str] = ()
) -> tuple[Photo, ...]:
    """Draw crops, their surroundings dimmed.

    Parameters
    ----------
    evidence
        The work folder.
    store
        The crops.
    rows
        Positions in the store.
    notes
        What to say of each, after its image and cell.
    """
    if not len(rows):
        return ()
    channels: tuple[Channel, ...] = evidence.work.data.channels
    pixels = store.pixels(rows)
    if evidence.window == "cells":
        pixels = apply_outside_cell(pixels, store.masks(rows), "dim")
    ids, cells = store.table["image_id"].to_numpy()[rows], store.table["cell_label"].to_numpy()[rows]
    said = list(notes) or [""] * len(rows)
    captions = [
        f"{image_id}, cell {cell}" + (f": {note}" if note else "")
        for image_id, cell, note in zip(ids, cells, said, strict=True)
    ]
    return tuple(photo(composite(crop, channels), caption) for crop, caption in zip(pixels, captions, strict=True))


def _evenly(total: int, wanted: int) -> NDArray[np.int64]:
    """Return up to `wanted` positions of `total`, evenly spaced."""
    return np.unique(np.linspace(0, max(total - 1, 0), min(wanted, total)).round().astype(np.int64))


def _histogram(title: str, values: NDArray[np.float64], x_label: str) -> Panel:
    if not len(values):
        axes = Axes((0, 1), (0, 1))
        return axes.panel(title, "none", [], x_label=x_label, y_label="images", text="nothing to show", y_ticks=())
    bins = min(24, max(4, int(np.sqrt(len(values)) * 2)))
    counts, edges = np.histogram(values, bins=bins)
    axes = Axes((float(edges[0]), float(edges[-1])), (0, float(counts.max())))
    x, y = np.repeat(edges, 2), np.concatenate([[0], np.repeat(counts, 2), [0]])
    text = f"{title}: median {np.median(values):.0f}, from {values.min():.0f} to {values.max():.0f}"
    return axes.panel(
        title, f"median {np.median(values):.0f}", [axes.curve(x, y, "area")], x_label=x_label, y_label="images",
        text=text,
    )  # fmt: skip
