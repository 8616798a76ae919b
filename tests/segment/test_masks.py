"""Write and read label images, and validate their table."""

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pandera.errors import SchemaError, SchemaErrors

from hpa.errors import UserError
from hpa.work.folder import WorkFolder
from segment.masks import join_flags, masks_path, read_mask, read_masks, read_nuclei, write_masks, write_pair
from tests.support.shapes import discs

CELLS = discs((20, 30), [(6, 6), (12, 20)], 5)


def row(**changes: Any) -> pd.DataFrame:
    good = {"image_id": "a", "n_cells": 2, "diameter_px": 10.0, "flags": "crowded", "crc32": 7}
    return pd.DataFrame([good | changes])


def test_label_images_are_read_back_and_measured(tmp_path: Path) -> None:
    work = WorkFolder(tmp_path)
    nuclei = np.where(np.pad(CELLS[1:-1, 1:-1], 1) == CELLS, CELLS, 0)
    found = write_pair(work, "a", CELLS, nuclei)
    assert np.array_equal(read_mask(work, "a"), CELLS)
    assert np.array_equal(read_nuclei(work, "a"), nuclei)
    areas = [np.count_nonzero(label == CELLS) for label in (1, 2)]
    assert found["n_cells"] == 2
    assert found["diameter_px"] == pytest.approx(np.median(np.sqrt(4 * np.array(areas) / np.pi)))
    assert found["crc32"] == zlib.crc32(CELLS.tobytes())
    write_masks(work, pd.DataFrame([found | {"flags": ""}])[["image_id", "n_cells", "diameter_px", "flags", "crc32"]])
    assert read_masks(work)["n_cells"].tolist() == [2]


def test_an_image_without_cells_has_a_row(tmp_path: Path) -> None:
    found = write_pair(WorkFolder(tmp_path), "b", np.zeros((4, 5), np.uint16), np.zeros((4, 5), np.uint16))
    assert found["n_cells"] == 0
    assert np.isnan(found["diameter_px"])


@pytest.mark.parametrize(
    "broken",
    [
        row(n_cells=-1),
        row(n_cells=0),
        row(n_cells=2**16),  # more than a label of 16 bits can tell apart
        row(diameter_px=np.nan),
        row(flags="no cell"),
        row(flags="odd"),
        row(crc32=2**32),
        pd.concat([row(), row()]),
        row(extra=1),
    ],
)
def test_a_table_that_breaks_the_contract_is_refused(tmp_path: Path, broken: pd.DataFrame) -> None:
    with pytest.raises((SchemaError, SchemaErrors)):
        write_masks(WorkFolder(tmp_path), broken.reset_index(drop=True))
    assert not masks_path(WorkFolder(tmp_path)).exists()


def test_a_label_image_may_be_full(tmp_path: Path) -> None:
    work = WorkFolder(tmp_path)
    write_masks(work, row(n_cells=2**16 - 1))
    assert read_masks(work)["n_cells"].tolist() == [2**16 - 1]


def test_flags_are_joined_in_a_fixed_order() -> None:
    assert join_flags({"no cell": True, "no signal": True, "crowded": False}) == "no signal, no cell"
    assert join_flags({}) == ""


def test_reading_masks_before_the_stage_has_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"python -m segment run"):
        read_masks(WorkFolder(tmp_path))
