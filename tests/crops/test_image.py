from typing import Any

import numpy as np
import pytest

from crops.config import CropsSection
from crops.depth import to_8_bit
from crops.image import cut_cells, drop_reasons
from crops.measure import find_cells
from hpa.channels import CHANNELS
from tests.support.cells import cells_of, world

MEASURED: dict[str, np.ndarray] = {
    "area_px": np.array([100, 100, 1, 120, 40]),
    "touches_border": np.array([False, False, True, True, True]),
    "completeness": np.array([1, 1, 0.01, 1, 0.4], np.float32),
    "has_nucleus": np.array([True, False, False, True, True]),
    "focus": np.array([0.2, 0.3, 0.0, 0.05, 0.3], np.float32),
}


@pytest.mark.parametrize(
    ("keys", "reasons"),
    [
        ({}, [None, None, "speck", None, None]),
        ({"min_area": 0.0}, [None] * 5),
        ({"min_area": 0.5}, [None, None, "speck", None, "speck"]),
        ({"drop": ("border",)}, [None, None, "speck", "border", "border"]),
        ({"min_area": 0, "drop": ("border",)}, [None, None, "border", "border", "border"]),
        ({"min_completeness": 0.5}, [None, None, "speck", None, "incomplete"]),
        ({"drop": ("no nucleus",)}, [None, "no nucleus", "speck", None, None]),
        ({"min_focus": 0.1}, [None, None, "speck", "out of focus", None]),
    ],
)
def test_each_drop_rule(keys: dict[str, Any], reasons: list[str | None]) -> None:
    assert drop_reasons(MEASURED, CropsSection.model_validate(keys)).tolist() == reasons


def test_drop_reasons_without_cells() -> None:
    assert drop_reasons({name: column[:0] for name, column in MEASURED.items()}, CropsSection()).tolist() == []


@pytest.mark.parametrize("size_px", [12, 48])
def test_area_is_in_source_pixels_and_scale_leads_from_source_to_crop(size_px: int) -> None:
    pixels, labels, nuclei = world(cells_of((60, 80), (5, 8, 25, 22), (30, 40, 42, 70), (44, 3, 60, 19)))
    section = CropsSection(size_px=size_px, margin=0.25)
    cut, columns, dropped = cut_cells(to_8_bit(list(pixels), section), find_cells(labels), nuclei, section, CHANNELS)
    assert len(dropped["cell_label"]) == 0
    for i, label in enumerate(columns["cell_label"]):
        assert columns["area_px"][i] == np.count_nonzero(labels == label)
        assert cut.masks[i].sum() == pytest.approx(columns["area_px"][i] * columns["scale"][i] ** 2, rel=0.15)
        # A pixel of the cell in the crop lies on the cell in the source.
        rows, columns_of_crop = np.nonzero(cut.masks[i])
        row = columns["min_row_px"][i] + ((rows + 0.5) / columns["scale"][i]).astype(int)
        column = columns["min_col_px"][i] + ((columns_of_crop + 0.5) / columns["scale"][i]).astype(int)
        assert (labels[row, column] == label).mean() > 0.9
        for name, plane in zip(CHANNELS, pixels, strict=True):
            assert columns[f"mean_{name}"][i] == pytest.approx(plane[labels == label].mean(), rel=1e-5)
