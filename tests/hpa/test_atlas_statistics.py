"""Shapes, counts, crowding and coverage of the cells, against the statistics of 328 real masks."""

import numpy as np
import pytest
from skimage.measure import regionprops_table
from skimage.segmentation import clear_border

from hpa.atlas import draw_scene
from hpa.atlas.geometry.cells import grow_field
from hpa.atlas.scene import label_cells
from hpa.atlas.styles import CELL_LINES, SHARES

FIELDS = 90
PROPERTIES = ("label", "equivalent_diameter_area", "eccentricity", "solidity")
SIDE = 256


@pytest.fixture(scope="module")
def statistics() -> dict[str, float]:
    found: dict[str, list[float]] = {
        name: [] for name in ("diameter", "eccentricity", "solidity", "border", "count", "coverage")
    }
    lines = np.random.default_rng(0).choice(len(CELL_LINES), FIELDS, p=np.array(SHARES) / sum(SHARES))
    for number, line in enumerate(lines):
        field = grow_field(
            np.random.default_rng([1, number]), CELL_LINES[line], (SIDE, SIDE), dividing=0.03, telophase=0.02
        )
        # the hand-labelled masks leave out the cells that the frame cuts through the nucleus
        cells, nuclei, _ = label_cells(field)
        cells = np.where(np.isin(cells, np.unique(clear_border(nuclei))), cells, 0)  # type: ignore[no-untyped-call]
        table = regionprops_table(cells, properties=PROPERTIES)  # type: ignore[no-untyped-call]
        rim = np.unique(np.concatenate([cells[0], cells[-1], cells[:, 0], cells[:, -1]]))
        found["diameter"] += (table["equivalent_diameter_area"] * 512 / SIDE).tolist()
        found["eccentricity"] += table["eccentricity"].tolist()
        found["solidity"] += table["solidity"].tolist()
        found["border"] += np.isin(table["label"], rim).astype(float).tolist()
        found["count"].append(len(table["label"]))
        found["coverage"].append(float((cells > 0).mean()))
    result = {f"{name} {q}": float(np.percentile(values, q)) for name, values in found.items() for q in (5, 50, 95)}
    return result | {"border share": float(np.mean(found["border"]))}


@pytest.mark.parametrize(
    ("name", "real", "tolerance"),
    [
        ("count 5", 6, 2.5), ("count 50", 13, 4), ("count 95", 36, 12),
        ("diameter 5", 50, 12), ("diameter 50", 98, 14), ("diameter 95", 163, 25),
        ("eccentricity 50", 0.81, 0.06), ("solidity 50", 0.90, 0.04), ("solidity 5", 0.70, 0.10),
        ("border share", 0.35, 0.12),
        ("coverage 50", 0.53, 0.08), ("coverage 5", 0.27, 0.10), ("coverage 95", 0.79, 0.12),
    ],
)  # fmt: skip
def test_cells_match_statistics_of_real_masks(
    name: str, real: float, tolerance: float, statistics: dict[str, float]
) -> None:
    assert statistics[name] == pytest.approx(real, abs=tolerance)


def test_gray_values_match_statistics_of_real_images() -> None:
    """Median over images of the median, 99% quantile and share of zeros, against 200 real 512 px images."""
    scenes = [draw_scene((2, k), target=(0, 25)) for k in range(8)]
    planes = np.stack([scene.channels for scene in scenes], axis=1)
    zeros = np.median((planes == 0).mean(axis=(2, 3)), axis=1)
    np.testing.assert_allclose(zeros, [0.40, 0.58, 0.83, 0.42], atol=0.2)
    bright = np.median(np.percentile(planes, 99, axis=(2, 3)), axis=1)
    np.testing.assert_allclose(bright, [157, 92, 155, 147], rtol=0.6)
