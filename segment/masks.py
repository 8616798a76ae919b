"""The contract of the segment stage: label images of cells and nuclei, and their table.

``segment/masks/<image_id>.png`` is a uint16 label image of the size of the source: 0 for background, 1..n without gaps
for cells. ``segment/nuclei/<image_id>.png`` has the same size; a nucleus carries the cell_label of its cell and lies
within it. ``segment/masks.parquet`` has one row per image:

image_id, n_cells, diameter_px (median equivalent diameter of its cells in source pixels, NaN without cells), flags (any
of `FLAGS`, joined by ", "; empty if none), crc32 (of the label image as rows of little-endian uint16), checksums (of
the image files that were segmented, `hpa.pixels.checksum_files`; empty where unknown).

Images of the image table = rows of this table + rows of ``segment/failures.csv``.
"""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pandera.pandas as pa
from numpy.typing import NDArray

from hpa.pixels import read_label_image, write_label_image
from hpa.work.files import check_table, read_parquet, write_parquet
from hpa.work.folder import WorkFolder

MASKS: Final = "masks.parquet"
"""The table of the stage, in its folder."""

DISAGREE: Final = "channels disagree"

FLAGS: Final = ("no signal", "no cell", DISAGREE, "crowded")
"""Only noise in a channel that was read; no cell found; ER and microtubules show different cells; more cells than the
recipe's `crowded`."""

_SEPARATOR: Final = ", "


def _known_flags(flags: str) -> bool:
    return all(flag in FLAGS for flag in flags.split(_SEPARATOR) if flag)


COLUMNS: Final = {
    "image_id": pa.Column(str, unique=True),
    "n_cells": pa.Column("int32", pa.Check.in_range(0, 65_535)),
    "diameter_px": pa.Column("float32", pa.Check.gt(0), nullable=True),
    "flags": pa.Column(str, pa.Check(_known_flags, element_wise=True)),
    "crc32": pa.Column("int64", pa.Check.in_range(0, 2**32 - 1)),
    "checksums": pa.Column(str),
}

_MASKS: Final = pa.DataFrameSchema(
    COLUMNS,
    checks=[
        pa.Check(
            lambda t: (t["n_cells"] > 0) == t["diameter_px"].notna(),
            error="diameter_px must be set exactly when there are cells",
        ),
        pa.Check(
            lambda t: (t["n_cells"] == 0) == t["flags"].str.contains("no cell"),
            error="flag `no cell` must be set exactly when there are no cells",
        ),
    ],
    strict=True,
    ordered=True,
    coerce=True,
)


@dataclass(frozen=True)
class Masks:
    """The cells and nuclei of one image.

    Parameters
    ----------
    cells
        Shape (H, W), uint16: 0 for background, cells 1..n.
    nuclei
        Shape (H, W), uint16; a nucleus carries the label of the cell that it belongs to.
    """

    cells: NDArray[np.uint16]
    nuclei: NDArray[np.uint16]


def stage_folder(work: WorkFolder) -> Path:
    """Return the folder of the segment stage."""
    return work.root / "segment"


def masks_path(work: WorkFolder) -> Path:
    """Return the path of the table of masks."""
    return stage_folder(work) / MASKS


def write_masks(work: WorkFolder, masks: pd.DataFrame) -> None:
    """Validate and write the table of masks; the column checksums may be absent.

    Raises
    ------
    pandera.errors.SchemaError
        If it breaks the contract.
    """
    if "checksums" not in masks:
        masks = masks.assign(checksums="")
    write_parquet(masks_path(work), _MASKS.validate(masks))


def read_masks(work: WorkFolder) -> pd.DataFrame:
    """Read the table of masks.

    Raises
    ------
    UserError
        If the stage has not finished, or the table is damaged.
    """
    path = masks_path(work)
    return check_table(read_parquet(path, f"python -m segment run {work.root}"), _MASKS, path)


def write_pair(
    work: WorkFolder, image_id: str, cells: NDArray[np.uint16], nuclei: NDArray[np.uint16]
) -> dict[str, Any]:
    """Write the label images of an image's cells and nuclei.

    Parameters
    ----------
    work
        The work folder.
    image_id
        Id of the image.
    cells, nuclei
        Shape (H, W), uint16; cells are labelled 1..n, a nucleus carries the label of its cell.

    Returns
    -------
    dict
        The values of image_id, n_cells, diameter_px and crc32 in the image's row of the table of masks.
    """
    write_label_image(_path(work, "nuclei", image_id), nuclei)
    write_label_image(_path(work, "masks", image_id), cells)
    areas = np.bincount(cells.ravel())[1:]
    areas = areas[areas > 0]  # masks made by other programs may skip labels
    return {
        "image_id": image_id,
        "n_cells": len(areas),
        "diameter_px": float(np.median(np.sqrt(areas * 4 / np.pi))) if len(areas) else np.nan,
        "crc32": zlib.crc32(cells.astype("<u2").tobytes()),
    }


def join_flags(flags: dict[str, bool]) -> str:
    """Join the flags that are set, in the order of `FLAGS`.

    Examples
    --------
    >>> join_flags({"no cell": True, "no signal": True, "crowded": False})
    'no signal, no cell'
    """
    return _SEPARATOR.join(flag for flag in FLAGS if flags.get(flag))


def has_masks(work: WorkFolder, image_ids: Iterable[str]) -> bool:
    """Return whether images have files of masks; that these can be read is found out by whoever reads them."""
    return all(_path(work, kind, image_id).is_file() for image_id in image_ids for kind in ("masks", "nuclei"))


def read_mask(work: WorkFolder, image_id: str) -> NDArray[np.uint16]:
    """Read the cell mask of an image, shape (H, W).

    Raises
    ------
    ImageError
        If the file is missing or unreadable.
    """
    return read_label_image(_path(work, "masks", image_id))


def read_nuclei(work: WorkFolder, image_id: str) -> NDArray[np.uint16]:
    """Read the nucleus mask of an image, shape (H, W); each nucleus carries the label of its cell.

    Raises
    ------
    ImageError
        If the file is missing or unreadable.
    """
    return read_label_image(_path(work, "nuclei", image_id))


def _path(work: WorkFolder, kind: str, image_id: str) -> Path:
    return stage_folder(work) / kind / f"{image_id}.png"
