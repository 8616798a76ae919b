"""Which cells of an image are not cut, and why."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crops.config import CropsSection


def drop_reasons(measured: Mapping[str, NDArray[Any]], section: CropsSection) -> NDArray[np.object_]:
    """Return why each cell is dropped, None for one that is kept; of several reasons the first in this order.

    Parameters
    ----------
    measured
        The columns of `crops.measure` of one image's cells, all of them.
    section
        Its rules.

    Returns
    -------
    ndarray
        Shape (n,): ``speck``, ``border``, ``incomplete``, ``no nucleus``, ``out of focus`` or None.
    """
    area = measured["area_px"]
    median = float(np.median(area)) if len(area) else 0.0
    rules = {
        "speck": area < section.min_area * median,
        "border": measured["touches_border"] & ("border" in section.drop),
        "incomplete": measured["completeness"] < section.min_completeness,
        "no nucleus": ~measured["has_nucleus"] & ("no nucleus" in section.drop),
        "out of focus": measured["focus"] < section.min_focus,
    }
    reasons = np.full(len(area), None, dtype=object)
    for reason, applies in reversed(rules.items()):
        reasons[applies] = reason
    return reasons
