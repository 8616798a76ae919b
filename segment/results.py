"""What stands in the folder of the stage at the end, wherever the masks come from."""

from json import loads
from typing import Any, Final

import pandas as pd

from hpa.channels import Channel
from hpa.work.folder import WorkFolder
from hpa.work.mapping import FAILURE, write_failures
from segment.config import SegmentSection
from segment.figures import write_figures
from segment.inference.preprocess import NetworkInput
from segment.masks import COLUMNS, join_flags, stage_folder, write_masks, write_pair
from segment.postprocess.decode import Masks

IMPORTED: Final = "imported.json"
"""File of the stage that names the folder from which masks were imported."""


def row_of(
    work: WorkFolder, image_id: str, masks: Masks, image: NetworkInput, section: SegmentSection
) -> dict[str, Any]:
    """Write the masks of an image and return its row of a part."""
    row = write_pair(work, image_id, masks.cells, masks.nuclei)
    flags = {
        "no signal": not image.has_signal,
        "no cell": row["n_cells"] == 0,
        "crowded": row["n_cells"] > section.crowded,
    }
    return row | {"flags": join_flags(flags), FAILURE: None}


def conclude(
    work: WorkFolder, images: pd.DataFrame, parts: pd.DataFrame, channels: tuple[Channel, ...]
) -> dict[str, Any]:
    """Write the table of masks, the failures and the figures, and return the counts for run.json.

    Parameters
    ----------
    work
        The work folder.
    images
        The image table.
    parts
        The parts of all chunks joined (`hpa.work.mapping.map_chunks`).
    channels
        What the network read.

    Raises
    ------
    RuntimeError
        If images = masks + failures does not hold.
    """
    failed = write_failures(stage_folder(work) / "failures.csv", parts)
    masks = parts.loc[parts[FAILURE].isna(), list(COLUMNS)].reset_index(drop=True)
    if len(masks) + failed != len(images):
        # Not a user's mistake: an image was lost on the way.
        raise RuntimeError(f"{len(images)} images, but {len(masks)} masks and {failed} failures")
    write_masks(work, masks)
    write_figures(work, images, masks, channels)
    return {
        "images": len(images),
        "masks": len(masks),
        "failures": failed,
        "cells": int(masks["n_cells"].sum()),
        "channels": list(channels),
    }


def imported_from(work: WorkFolder) -> str:
    """Return the folder from which masks were imported, empty if they were not."""
    record = stage_folder(work) / IMPORTED
    return str(loads(record.read_text())["masks"]) if record.exists() else ""
