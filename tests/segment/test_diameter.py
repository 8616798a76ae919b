"""Sample images and estimate the diameter of a typical cell."""

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from segment.config import SegmentSection
from segment.inference.diameter import (
    SAMPLE_IMAGES,
    estimate_diameter_px,
    own_diameter_px,
    sample_rows,
    typical_diameter_px,
)
from tests.support.shapes import discs


def test_few_cells_shrink_the_diameter_towards_the_typical_one() -> None:
    assert typical_diameter_px(512, 700) == pytest.approx(98)
    assert estimate_diameter_px([], 98, (512, 700)) == 98
    area = round(np.pi / 4 * 140**2)
    many, some, few = (estimate_diameter_px([area] * n + [0], 98, (512, 512)) for n in (3000, 10, 2))
    assert many == pytest.approx(140, rel=0.01)
    assert 98 < few < 112 < some < many
    assert estimate_diameter_px([4] * 3000, 98, (512, 512)) == pytest.approx(0.4 * 98), "more likely a wrong sample"


@pytest.mark.parametrize(("radius", "n", "changes"), [(14, 4, False), (10, 4, True), (18, 4, True), (10, 0, False)])
def test_an_image_of_other_cells_gets_its_own_diameter(radius: int, n: int, changes: bool) -> None:
    cells = discs((120, 120), [(25, 25), (25, 90), (90, 25), (90, 90)], radius) if n else np.zeros((120, 120), int)
    own = own_diameter_px(cells, 28.0)
    assert (own is not None) == changes
    if own is not None:
        assert own == pytest.approx(28 * (radius / 14) ** (4 / 9), rel=0.02), "four cells count 4 of 9"


def test_every_size_is_sampled() -> None:
    table = pd.DataFrame({"height_px": [512] * 100 + [2048] * 3 + [0], "width_px": [512] * 100 + [2048] * 3 + [0]})
    sizes = sample_rows(table)["height_px"].value_counts().to_dict()
    assert sizes == {512: SAMPLE_IMAGES, 2048: 3}


def test_a_diameter_is_at_most_the_side_of_a_large_frame() -> None:
    assert SegmentSection(diameter_px=4096).diameter_px == 4096
    for wrong in (4097, -1, np.nan, np.inf):
        with pytest.raises(ValidationError):
            SegmentSection(diameter_px=wrong)
