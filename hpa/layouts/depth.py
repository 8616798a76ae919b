"""Recognise how many bits the values of a data set's 16-bit files use.

Cameras of 10, 12 or 14 bits are saved in 16-bit files. Read as if they used the full range, a 12-bit image keeps 17 of
the 256 gray levels of a crop.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from hpa.channels import Channel
from hpa.errors import ImageError
from hpa.pixels import BIT_DEPTHS, depth_of, read_planes

_SAMPLED: Final = 256
_SEED: Final = 0  # not the recipe's: runs that are joined must recognise the same depth
_PNG_DEPTH: Final = 24  # position of the bit depth in a PNG
_TIFF_DEPTH: Final = 258  # number of the tag BitsPerSample


class BitDepth(NamedTuple):
    """The recognised depth.

    Parameters
    ----------
    bits
        One of `hpa.pixels.BIT_DEPTHS`; 16 if the sample has no 16-bit file.
    notices
        Messages for the user, one sentence each; none if the sample has no 16-bit file.
    """

    bits: int
    notices: tuple[str, ...]


def recognise_bit_depth(images: pd.DataFrame, channels: Sequence[Channel]) -> BitDepth:
    """Recognise the depth in use from the highest value in a sample of the images.

    Parameters
    ----------
    images
        The image table of `hpa.layouts.index`, which assumes 16 bits.
    channels
        Channels of the run.
    """
    highest: dict[str, int] = {}
    n_read = 0
    for image in _sample(images, channels).to_dict("records"):
        if not any(_may_have_16_bits(Path(image[f"path_{channel}"])) for channel in channels):
            continue
        try:
            planes = read_planes(image, channels)
        except ImageError:  # reported by the stage that needs the image
            continue
        if planes[0].dtype == np.uint16:
            n_read += 1
            source = str(image["source"])
            highest[source] = max(highest.get(source, 0), *(int(plane.max(initial=0)) for plane in planes))
        if min(highest.values(), default=0) >= 2 ** BIT_DEPTHS[-2] and len(highest) == images["source"].nunique():
            break  # no further image can change the result
    top = max(highest.values(), default=0)
    if not top:
        return BitDepth(BIT_DEPTHS[-1], ())
    bits = depth_of(top)
    notices = [
        f"the 16-bit files use {bits} bits (highest value {top:,} in {n_read} sampled images); data.bit_depth sets "
        "another number"
    ]
    depths = {source: depth_of(value) for source, value in highest.items() if value}
    if len(set(depths.values())) > 1:
        found = ", ".join(f"{source} {depth}" for source, depth in depths.items())
        notices.append(f"the sources use different numbers of bits ({found}); {bits} are assumed for all of them")
    return BitDepth(bits, tuple(notices))


def _sample(images: pd.DataFrame, channels: Sequence[Channel]) -> pd.DataFrame:
    """Draw images that have all their files, about as many from every source."""
    complete = images[(images[[f"bytes_{channel}" for channel in channels]] > 0).all(axis=1)]
    shuffled = complete.iloc[np.random.default_rng(_SEED).permutation(len(complete))]
    turns = shuffled.groupby("source").cumcount()
    return shuffled.loc[turns.sort_values(kind="stable").index[:_SAMPLED]]


def _may_have_16_bits(path: Path) -> bool:
    """Return whether the header of a file allows 16 bits; 8-bit files need not be decoded."""
    try:
        with Image.open(path) as image:
            if image.format == "PNG":
                with path.open("rb") as file:
                    return file.read(_PNG_DEPTH + 1)[-1] == BIT_DEPTHS[-1]
            if image.format == "TIFF":
                return max(_tag(image, _TIFF_DEPTH)) > BIT_DEPTHS[0]
            return image.format != "JPEG"
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # raised for damaged files
        return False


def _tag(image: Image.Image, number: int) -> Sequence[int]:
    tags: Mapping[int, Any] = getattr(image, "tag_v2", {})
    found: Sequence[int] = tags.get(number, (1,))
    return found
