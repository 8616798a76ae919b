from typing import Any

import numpy as np
import pytest

from crops.config import CropsSection
from crops.image import drop_reasons

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
