"""Recognise how large a pixel of a data set is, from the metadata of OME-TIFF and OME-Zarr."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pandas as pd
from tifffile import TiffFile

from hpa.channels import Channel
from hpa.ome_zarr import is_store, open_store, square_um

_SAMPLED: Final = 16
_TIFF: Final = (b"II", b"MM")
_PIXELS: Final = re.compile(r"<(?:\w+:)?Pixels\s[^>]*>")
_MICROMETRES: Final = {"µm": 1.0, "μm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3, "Å": 1e-4}  # both signs for micro occur


class PixelSize(NamedTuple):
    """The recognised size.

    Parameters
    ----------
    um
        Side of a pixel, in micrometres; 0 if it is not known.
    notices
        Messages for the user, one sentence each.
    """

    um: float
    notices: tuple[str, ...]


def recognise_pixel_size(images: pd.DataFrame, channels: Sequence[Channel]) -> PixelSize:
    """Recognise the size of a pixel from the metadata of a sample of the images.

    Parameters
    ----------
    images
        The image table.
    channels
        Channels of the run; the files of the first one are read.
    """
    paths = images.loc[images[f"bytes_{channels[0]}"] > 0, f"path_{channels[0]}"]
    places = np.unique(np.linspace(0, len(paths) - 1, min(_SAMPLED, len(paths))).round().astype(int))
    sizes = [size for path in paths.iloc[places] if (size := read_pixel_um(Path(path)))]
    if not sizes:
        return PixelSize(0.0, ())
    low, high = min(sizes), max(sizes)
    if len(sizes) < len(places) or high > 1.01 * low:
        return PixelSize(
            0.0,
            (
                f"pixels of {low:.4g} to {high:.4g} µm in {len(sizes)} of {len(places)} sampled images: scale bars are"
                " in px; data.pixel_um sets one size",
            ),
        )
    size = float(f"{sizes[0]:.6g}")
    return PixelSize(size, (f"pixels of {size:g} µm, by the metadata of the images; data.pixel_um sets another size",))


def read_pixel_um(path: Path) -> float:
    """Return the side of a pixel by the metadata of an OME-TIFF or OME-Zarr, in micrometres; 0 if they do not say."""
    try:
        if is_store(path):
            return open_store(path).pixel_um
        if not path.is_file():
            return 0.0
        with path.open("rb") as file:
            if file.read(2) not in _TIFF:
                return 0.0
        with TiffFile(path) as tiff:
            return _of_ome(tiff.ome_metadata or "")
    except Exception:  # a damaged file raises any type here; the stage that reads its pixels reports it
        return 0.0


def _of_ome(xml: str) -> float:
    found = _PIXELS.search(xml)
    if found is None:
        return 0.0
    sides = []
    for axis in "YX":
        size = re.search(rf'\sPhysicalSize{axis}="([0-9.eE+-]+)"', found[0])
        unit = re.search(rf'\sPhysicalSize{axis}Unit="([^"]*)"', found[0])
        if size is None:
            return 0.0
        sides.append(float(size[1]) * _MICROMETRES.get(unit[1] if unit else "µm", 0.0))  # µm is OME's default
    return square_um(*sides)
