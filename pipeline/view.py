"""Look at one image in napari, with its masks and predictions, and correct the masks there."""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from aggregate.cell_labels import read_cells
from classify.probabilities import class_columns
from hpa.channels import STAINS
from hpa.errors import ImageError, UserError
from hpa.images import read_images
from hpa.pixels import read_channels, read_label_image, write_label_image
from hpa.vocabulary import Vocabulary
from hpa.work.files import atomic_write
from hpa.work.folder import WorkFolder
from segment.masks import masks_path, read_mask, read_nuclei

CELLS: Final = "cells"
"""Name of the layer whose labels can be corrected."""


@dataclass(frozen=True)
class Layer:
    """A layer as napari takes it: its kind, data, and the arguments that it is added with.

    Parameters
    ----------
    kind
        ``image``, ``labels`` or ``points``: the viewer's method is ``add_<kind>``.
    data
        A plane or label image (H, W), or coordinates (n, 2) in rows and columns.
    arguments
        Keyword arguments of that method.
    """

    kind: str
    data: NDArray[Any]
    arguments: Mapping[str, Any]


def layers(work: WorkFolder, image_id: str, corrected: Path | None = None) -> list[Layer]:
    """Return the layers of an image: its channels, its nuclei and cells, and the classes of each cell.

    Stages that have not run leave out their layers. The layer of the cells has one row of features per cell: its
    label (``index``), its classes, and the probability of each predicted class.

    Parameters
    ----------
    work
        The work folder.
    image_id
        One of its images.
    corrected
        Folder of corrected masks (`start_corrections`); where it has one of the image, this replaces that of the run.

    Raises
    ------
    UserError
        If there is no such image, or it or its masks cannot be read.
    """
    images = read_images(work.images).set_index("image_id", drop=False)
    if image_id not in images.index:
        raise UserError(f"expected the id of an image of {work.root}, found {image_id!r}")
    row = images.loc[image_id].to_dict()
    try:
        planes = read_channels(row, work.data.channels)
        found = [
            Layer(
                "image", plane, {"name": f"{channel}: {STAINS[channel]}", "colormap": channel, "blending": "additive"}
            )
            for channel, plane in zip(work.data.channels, planes, strict=True)
        ]
        if not masks_path(work).is_file():
            return found
        nuclei, cells = read_nuclei(work, image_id), read_mask(work, image_id)
        if corrected is not None and (corrected / f"{image_id}.png").exists():
            cells = read_label_image(corrected / f"{image_id}.png")
    except ImageError as error:
        raise UserError(f"expected a readable image and masks of {image_id}, found: {error}") from None
    found.append(Layer("labels", nuclei, {"name": "nuclei", "visible": False}))
    if not (work.root / "aggregate" / "cells.parquet").is_file():
        return [*found, Layer("labels", cells, {"name": CELLS})]
    table = read_cells(work)
    own = (table["image_id"] == image_id) & table["cell_label"].isin(np.unique(cells))
    features = cell_features(table[own], work.data.classes)
    found.append(Layer("labels", cells, {"name": CELLS, "features": features}))
    if len(features):
        places = np.array([np.argwhere(cells == label).mean(axis=0) for label in features["index"]])
        text = {"string": "{predicted}", "size": 8, "color": "white"}
        points = {"name": "classes", "features": features, "text": text, "size": 1, "face_color": "white"}
        found.append(Layer("points", places, points))
    return found


def cell_features(table: pd.DataFrame, vocabulary: Vocabulary) -> pd.DataFrame:
    """Return one row per cell: index (its label), predicted (names, one per line), probabilities (in the same order).

    Parameters
    ----------
    table
        Rows of ``aggregate/cells.parquet``.
    vocabulary
        Of the run.
    """
    columns = class_columns(vocabulary)
    targets = [vocabulary.parse(text) for text in table["predicted"]]
    scores = table[columns].to_numpy(np.float32)
    return pd.DataFrame(
        {
            "index": table["cell_label"].to_numpy(np.int64),
            "predicted": ["\n".join(vocabulary.classes[c] for c in target) for target in targets],
            "probabilities": [
                "; ".join(f"{row[c]:.2f}" for c in target) for target, row in zip(targets, scores, strict=True)
            ],
        }
    )


def start_corrections(work: WorkFolder, folder: Path) -> None:
    """Fill a folder with the masks of all images, to be corrected one by one and imported again.

    Nuclei come along, so that `segment import` keeps them. A folder that was filled before stays as it is.

    Raises
    ------
    UserError
        If the images are not segmented.
    """
    if not masks_path(work).is_file():
        raise UserError(f"expected masks (made by `python -m segment run {work.root}`), found none")
    folder.mkdir(parents=True, exist_ok=True)
    for kind, ending in (("masks", ""), ("nuclei", "_nuclei")):
        for path in sorted((work.root / "segment" / kind).glob("*.png")):
            copied = folder / f"{path.stem}{ending}.png"
            if not copied.exists():
                with atomic_write(copied) as unfinished:
                    shutil.copyfile(path, unfinished)


def save_corrections(before: NDArray[np.uint16], after: NDArray[Any], image_id: str, folder: Path) -> bool:
    """Write a corrected label image for `segment import`, unless nothing was changed; return whether it was written.

    Raises
    ------
    UserError
        If the labels do not fit into a label image.
    """
    if np.array_equal(before, after):
        return False
    try:
        write_label_image(folder / f"{image_id}.png", np.asarray(after))
    except ImageError as error:
        raise UserError(f"expected corrected labels that can be written, found: {error}") from None
    return True


def view(work: WorkFolder, image_id: str, corrected: Path | None = None) -> None:
    """Open an image in napari and wait until its window is closed.

    Parameters
    ----------
    work, image_id
        As for `layers`.
    corrected
        Folder of corrected masks; if given, the labels of the cells are written there when the window is closed.

    Raises
    ------
    UserError
        If napari is missing or cannot open a window.
    """
    if (
        not any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"))
        and os.name == "posix"
    ):
        raise UserError("expected a display to open a window on, found none (DISPLAY is not set)")
    try:
        import napari
    except ImportError:
        raise UserError("expected napari (pip install 'cellwise[napari]'), found none") from None
    if corrected is not None:
        start_corrections(work, corrected)
    shown = layers(work, image_id, corrected)
    viewer = napari.Viewer(title=f"{image_id} of {work.root.name}")
    added = add_layers(viewer, shown, work.data.pixel_um)
    napari.run()
    if corrected is not None and save_corrections(_cells(shown), added[CELLS].data, image_id, corrected):
        print(f"corrected masks: {corrected}; import them with `python -m segment import WORK --masks {corrected}`")


def add_layers(viewer: Any, shown: Sequence[Layer], pixel_um: float = 0.0) -> dict[str, Any]:
    """Add layers to a viewer of napari with a scale bar, and return what it made of them by name.

    Parameters
    ----------
    viewer
        The viewer.
    shown
        The layers.
    pixel_um
        Side of a pixel, in micrometres; 0 if it is not known: the scale bar then counts pixels.
    """
    place = {"scale": (pixel_um or 1.0,) * 2, "units": ("µm" if pixel_um else "pixel",) * 2}
    viewer.scale_bar.visible = True
    return {
        layer.arguments["name"]: getattr(viewer, f"add_{layer.kind}")(layer.data.copy(), **layer.arguments, **place)
        for layer in shown
    }


def _cells(shown: Sequence[Layer]) -> NDArray[np.uint16]:
    return next(layer.data for layer in shown if layer.arguments["name"] == CELLS)
