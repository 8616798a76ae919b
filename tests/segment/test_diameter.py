"""Sample images and estimate the diameter of a typical cell."""

import numpy as np
import pandas as pd
import pytest

from segment.inference.diameter import SAMPLE_IMAGES, estimate_diameter_px, sample_rows


def test_few_cells_shrink_the_diameter_towards_the_typical_one() -> None:
    typical = estimate_diameter_px([], 512, 700)
    assert typical == pytest.approx(98)
    many, few = (estimate_diameter_px([2 * 98**2] * n, 512, 512) for n in (3000, 3))
    assert many == pytest.approx(98 * np.sqrt(8 / np.pi), rel=0.02)
    assert typical < few < 1.15 * typical


def test_every_size_is_sampled() -> None:
    table = pd.DataFrame({"height_px": [512] * 100 + [2048] * 3 + [0], "width_px": [512] * 100 + [2048] * 3 + [0]})
    sizes = sample_rows(table)["height_px"].value_counts().to_dict()
    assert sizes == {512: SAMPLE_IMAGES, 2048: 3}
