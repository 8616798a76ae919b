"""A map of a plate: one class in every well."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from classify.probabilities import class_columns
from hpa.errors import UserError
from hpa.images import read_images
from hpa.pictures import check_figure, save_figure
from hpa.work.files import read_parquet
from hpa.work.folder import WorkFolder

_WELL: Final = re.compile(r"(?:(?P<plate>.*)[_ -])?(?P<row>[A-Pa-p])0?(?P<column>[1-9]\d?)")
_SIZES: Final = ((8, 12), (16, 24))  # rows and columns of plates with 96 and 384 wells


@dataclass(frozen=True)
class Plate:
    """The wells of a plate.

    Parameters
    ----------
    name
        Name of the plate, empty if the wells do not name it.
    values
        Mean probability of the class over the images of each well that have crops, shape (rows, columns); NaN without
        any.
    images
        Number of these images in each well, of the same shape.
    """

    name: str
    values: NDArray[np.float64]
    images: NDArray[np.int64]


def read_plates(work: WorkFolder, class_name: str) -> list[Plate]:
    """Return the plates of a finished run, whose wells are named ``B02`` or ``plate_B02``.

    Parameters
    ----------
    work
        The work folder.
    class_name
        Name of the class.

    Raises
    ------
    UserError
        If the run is not finished, has no such class, or its images have no wells.
    """
    vocabulary = work.data.classes
    column = class_columns(vocabulary)[vocabulary.index(class_name)]
    scores = read_parquet(work.root / "aggregate" / "images.parquet", f"python -m aggregate run {work.root}")
    # An image without crops has the frequencies of the training as its probabilities, whatever its well.
    scores = scores.loc[scores["origin"] != "prior", ["image_id", column]]
    images = read_images(work.images)[["image_id", "well"]].merge(scores, on="image_id")
    matches = [_WELL.fullmatch(well) if isinstance(well, str) else None for well in images["well"]]
    found = [match for match in matches if match]
    if not found:
        raise UserError(f"expected images with wells such as B02, and with crops, in {work.root}, found none")
    wells = pd.DataFrame(
        {
            "plate": [match["plate"] or "" for match in found],
            "row": ["ABCDEFGHIJKLMNOP".index(match["row"].upper()) for match in found],
            "column": [int(match["column"]) - 1 for match in found],
            "value": images.loc[[match is not None for match in matches], column].to_numpy(np.float64),
        }
    )
    return [_plate(str(name), own) for name, own in wells.groupby("plate")]


def _plate(name: str, wells: pd.DataFrame) -> Plate:
    needed = wells["row"].max() + 1, wells["column"].max() + 1
    fitting = [size for size in _SIZES if size[0] >= needed[0] and size[1] >= needed[1]]
    shape = fitting[0] if fitting else needed
    values, images = np.full(shape, np.nan), np.zeros(shape, dtype=np.int64)
    place = wells["row"].to_numpy(np.int64), wells["column"].to_numpy(np.int64)
    sums = np.zeros(shape)
    np.add.at(sums, place, wells["value"].to_numpy(np.float64))
    np.add.at(images, place, 1)
    np.divide(sums, images, out=values, where=images > 0)
    return Plate(name, values, images)


def draw_platemap(work: WorkFolder, class_name: str, out: Path) -> None:
    """Draw the plates of a finished run, each well with the mean probability of a class over its images.

    Parameters
    ----------
    work, class_name
        As for `read_plates`.
    out
        The PNG, PDF or SVG to write.

    Raises
    ------
    UserError
        As for `read_plates`, or if the suffix is another.
    """
    from matplotlib.figure import Figure

    check_figure(out)
    plates = read_plates(work, class_name)
    figure = Figure(figsize=(7.2, 4.4 * len(plates)), layout="constrained")
    figure.suptitle(f"{class_name}: mean probability by well, {work.root.resolve().name}", fontsize=9)
    for axes, plate in zip(figure.subplots(len(plates), 1, squeeze=False)[:, 0], plates, strict=True):
        rows, columns = plate.values.shape
        drawn = axes.imshow(plate.values, cmap="viridis", vmin=0, vmax=1)
        axes.set_title(plate.name, fontsize=8)
        axes.set_facecolor("#e6e6e6")  # wells without images
        axes.set_xticks(range(columns), [str(c + 1) for c in range(columns)], fontsize=6)
        axes.set_yticks(range(rows), list("ABCDEFGHIJKLMNOP"[:rows]), fontsize=6)
        axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
        for row, column in zip(*np.nonzero(plate.images), strict=True):
            value = plate.values[row, column]
            color = "black" if value > 0.6 else "white"
            axes.text(
                column, row, f"{value:.2f}", ha="center", va="center", fontsize=6 if columns < 13 else 4, color=color
            )
        figure.colorbar(drawn, ax=axes, shrink=0.8).ax.tick_params(labelsize=6)
    save_figure(figure, out, dpi=200)
