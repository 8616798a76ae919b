"""A sheet of crops: a query and its neighbours a row, a frame telling whether they share labels."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpa.channels import Channel
from hpa.files import write_bytes

_COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (1.0, 0.0, 0.0),
    "green": (0.0, 1.0, 0.0),
    "blue": (0.3, 0.3, 1.0),
    "yellow": (0.5, 0.5, 0.0),
}


def colour(crops: NDArray[np.uint8], channels: Sequence[Channel]) -> NDArray[np.float64]:
    """Show crops of shape (N, C, S, S), each channel stretched, as (N, S, S, 3) within 0..1."""
    shown = np.zeros((len(crops), *crops.shape[2:], 3))
    for c, channel in enumerate(channels):
        high = np.maximum(crops[:, c].max(axis=(1, 2), keepdims=True), 1)
        shown += (crops[:, c] / high)[..., None] * np.array(_COLOURS[channel])
    return shown.clip(0, 1)


def draw_sheet(
    path: Path, rows: Sequence[NDArray[np.float64]], titles: Sequence[Sequence[str]], shared: Sequence[Sequence[bool]]
) -> None:
    """Draw queries, first in their row, with their neighbours, into a PNG.

    Parameters
    ----------
    path
        The picture.
    rows
        For each query, the pictures of it and its neighbours, shape (n, S, S, 3) within 0..1.
    titles
        What stands above each.
    shared
        Whether each shares a label with the query.
    """
    from matplotlib.figure import Figure

    width = max(map(len, rows))
    figure = Figure(figsize=(1.7 * width, 1.95 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), width, squeeze=False)
    for panel in axes.flat:
        panel.set_axis_off()
    for panels, pictures, names, alike in zip(axes, rows, titles, shared, strict=True):
        for i, (panel, picture, name) in enumerate(zip(panels, pictures, names, strict=False)):
            panel.imshow(picture)
            panel.set_title(name, fontsize=6, color="black" if i == 0 else "green" if alike[i] else "red")
    drawn = BytesIO()
    figure.savefig(drawn, format="png", dpi=110)
    write_bytes(path, drawn.getvalue())
