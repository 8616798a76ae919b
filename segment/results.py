"""What the segment stage writes, whether it found the masks or imported them."""

from typing import Any, Final

import pandas as pd
from pydantic.dataclasses import dataclass

from hpa.errors import ImageError, UserError
from hpa.work.folder import WorkFolder
from hpa.work.mapping import FAILURE
from hpa.work.records import STRICT, read_record
from hpa.work.stage import read_stage_record
from segment.config import SegmentSection
from segment.figures import write_figures
from segment.inference.preprocess import NetworkInput, channels_of
from segment.masks import COLUMNS, DISAGREE, Masks, join_flags, stage_folder, write_masks, write_pair

IMPORTED: Final = "imported.json"
"""File of the stage that records the folder from which masks were imported."""


@dataclass(frozen=True, config=STRICT)
class ImportRecord:
    """The content of ``imported.json``.

    Parameters
    ----------
    masks
        The folder of the masks.
    """

    masks: str


def write_image(
    work: WorkFolder, image_id: str, masks: Masks, image: NetworkInput, section: SegmentSection
) -> dict[str, Any]:
    """Write the masks of an image and return its row of the table of masks."""
    row = write_pair(work, image_id, masks.cells, masks.nuclei)
    flags = {
        "no signal": not image.has_signal,
        "no cell": row["n_cells"] == 0,
        DISAGREE: not image.stains_agree,
        "crowded": row["n_cells"] > section.crowded,
    }
    return row | {"flags": join_flags(flags), "checksums": image.checksums, FAILURE: None}


def conclude(work: WorkFolder, images: pd.DataFrame, parts: pd.DataFrame, channels: tuple[str, ...]) -> dict[str, Any]:
    """Write the table of masks and the figures, and return the counts for ``run.json``.

    Parameters
    ----------
    work
        The work folder.
    images
        The image table.
    parts
        The joined table parts of all chunks (`hpa.work.mapping.map_chunks`).
    channels
        `SegmentSection.channels` as read (`segment.inference.preprocess.channels_to_read`).

    Raises
    ------
    UserError
        If a mask of an earlier run is damaged.
    RuntimeError
        If an image has neither a mask nor a failure.
    """
    succeeded = parts[FAILURE].isna()
    masks = parts.loc[succeeded, list(COLUMNS)].reset_index(drop=True)
    if len(parts) != len(images):
        # Not a user's mistake: an image was lost on the way.
        raise RuntimeError(f"{len(images)} images, but {len(masks)} masks and {(~succeeded).sum()} failures")
    write_masks(work, masks)
    try:
        write_figures(work, images, masks, channels_of(channels))
    except ImageError as error:
        raise UserError(
            f"expected the masks in {stage_folder(work)} as they were written, found: {error}; remove that file and run"
            " the stage again"
        ) from None
    if disagree := int(masks["flags"].str.contains(DISAGREE).sum()):
        print(
            f"segment: in {disagree} of {len(masks)} images ER and microtubules show different cells (flag `{DISAGREE}`"
            " in masks.parquet, first in figures/overlays.png)"
        )
    return {
        "images": len(images),
        "masks": len(masks),
        "cells": int(masks["n_cells"].sum()),
        "channels": list(channels),
    }


def is_imported(work: WorkFolder) -> bool:
    """Return whether the import of masks, if that is what the stage did, has come to its end."""
    return read_stage_record(stage_folder(work)).state == "done"


def imported_from(work: WorkFolder) -> str:
    """Return the folder from which masks were imported, or an empty string if they were not imported.

    Raises
    ------
    UserError
        If the record of it is damaged.
    """
    path = stage_folder(work) / IMPORTED
    return read_record(path, ImportRecord, "import or segment again with --overwrite").masks if path.exists() else ""
