"""Prepare images for the network: read the channels, reduce them to the network's scale and normalise them."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from hpa.channels import Channel, parse_mixture
from hpa.config import DataSection
from hpa.errors import ImageError, UserError
from hpa.pixels import checksum_files, read_channels
from segment.config import SegmentSection
from segment.inference.diameter import typical_diameter_px
from segment.network.compact import ER, INPUTS, JOINED, MICROTUBULES, NUCLEUS_PLANE
from segment.network.scale import network_shape

DEFAULT_CHANNELS: Final = ("yellow", "blue")
"""`SegmentSection.channels` by default."""

_INPUT_OF: Final[Mapping[Channel, int]] = {"yellow": ER, "blue": NUCLEUS_PLANE, "red": MICROTUBULES}

_LOW, _HIGH = 1.0, 99.0  # percentiles, as in Cellpose
_MIN_SHARE = 0.1  # in an image with one small cell the 99th percentile is still background
_HAZE_SHARE: Final = 0.1
_HAZE_PX: Final = 6.0  # standard deviation, a fifth of a typical cell's diameter
_AROUND_PX: Final = 31  # side of the window that is searched for the brightest nucleus, a typical cell's diameter
_AROUND_BLUR_PX: Final = 8.0
_SPOT_PX: Final = 1.5  # grains within a nucleus are smaller
_EVENNESS: Final = 0.7  # 1 makes all nuclei equally bright
_DIMMEST: Final = 0.1  # of the nucleus plane; dimmer places are amplified no further
_MIN_SOURCE_PX: Final = 16
_STAINS: Final[tuple[Channel, ...]] = ("yellow", "red")
_MIN_CORRELATION: Final = 0.25
_MAX_NETWORK_PX2: Final = 2**25  # the outputs for so many pixels take 0.7 GB


@dataclass(frozen=True)
class NetworkInput:
    """One image, ready for the network.

    Parameters
    ----------
    planes
        Shape (3, h, w), float32: ER, nucleus, microtubules, reduced and normalised; a plane that was not read is 0.
    shape
        Height and width of the source image.
    has_signal
        Whether every plane that was read contains signal above the noise level.
    diameter_px
        Equivalent diameter of a typical cell in the source, for which the image was reduced.
    stains_agree
        Whether ER and microtubules show the same cells (`stains_agree`); true where one of them is not available.
    checksums
        Of the files that were read (`hpa.pixels.checksum_files`), empty if there were none.
    """

    planes: NDArray[np.float32]
    shape: tuple[int, int]
    has_signal: bool
    diameter_px: float
    stains_agree: bool = True
    checksums: str = ""


def channels_to_read(section: SegmentSection, data: DataSection) -> tuple[str, ...]:
    """Return the entries of `channels` to segment on; data without an ER channel use nucleus and microtubules.

    Raises
    ------
    UserError
        If the data lack one of the channels.
    """
    wanted = section.channels
    if "yellow" in channels_of(wanted) and "yellow" not in data.channels and "red" in data.channels:
        print("segment: the data have no ER channel (yellow); segmenting on nucleus and microtubules")
        wanted = ("red", "blue")
    if missing := [channel for channel in channels_of(wanted) if channel not in data.channels]:
        raise UserError(
            f"expected the channels {', '.join(wanted)} to segment on, found no {' and no '.join(missing)} in [data]"
        )
    return wanted


def channels_of(inputs: Sequence[str]) -> tuple[Channel, ...]:
    """Return the channels that entries of `SegmentSection.channels` are made from, in their order.

    Examples
    --------
    >>> channels_of(["yellow|red", "blue"])
    ('yellow', 'red', 'blue')
    """
    return tuple(channel for entry in inputs for channel in parse_mixture(entry).channels)


def size_name(height_px: int, width_px: int) -> str:
    """Return the name of an image size, for example ``"512x512"``."""
    return f"{height_px}x{width_px}"


def load_input(
    image: Mapping[Any, Any],
    inputs: tuple[str, ...],
    diameter_px: float,
    diameters_px: Mapping[str, float] = MappingProxyType({}),
) -> NetworkInput:
    """Read an image and prepare it for the network.

    Parameters
    ----------
    image
        Row of the image table.
    inputs
        Entries of `SegmentSection.channels`.
    diameter_px
        Equivalent diameter of a typical cell in the image; 0 looks it up by image size.
    diameters_px
        Diameter for each image size, for example ``{"512x512": 98.0}``. An image of any other size is assumed to show
        a complete field of view (`segment.inference.diameter.typical_diameter_px`).

    Raises
    ------
    ImageError
        If the image cannot be read, is too small, or is too large at the network's scale.
    """
    channels = channels_of(inputs)
    planes = read_channels(image, channels)
    height, width = planes.shape[1:]
    diameter = diameter_px or diameters_px.get(size_name(height, width)) or typical_diameter_px(height, width)
    prepared = prepare_input(planes, diameter, inputs)
    stains = []
    for channel in _STAINS:
        if channel in channels:
            stains.append(planes[channels.index(channel)])
        elif f"path_{channel}" in image:
            with suppress(ImageError):  # not needed for the masks
                stains.append(read_channels(image, (channel,))[0])
    reduced_shape = (prepared.planes.shape[1], prepared.planes.shape[2])
    agree = len(stains) < len(_STAINS) or stains_agree(stains[0], stains[1], reduced_shape)
    return replace(prepared, stains_agree=agree, checksums=checksum_files(image, channels))


def stains_agree(er: NDArray[Any], microtubules: NDArray[Any], shape: tuple[int, int]) -> bool:
    """Return whether ER and microtubules show the same cells, by the correlation of the two planes.

    On the real images at hand the correlation is 0.4 to 0.9, and between different images at most 0.2. In one image
    of the Human Protein Atlas, 57_F11_1, whose ER belongs to another field, it is 0.1.

    Parameters
    ----------
    er, microtubules
        Shape (H, W).
    shape
        Height and width of the network input; the planes are compared at this size.

    Returns
    -------
    bool
        True too if a plane has no signal.
    """
    planes = np.concatenate([reduce_planes(plane[np.newaxis], shape) for plane in (er, microtubules)])
    if not planes_with_signal(planes).all():
        return True
    blurred = [cv2.GaussianBlur(plane, (0, 0), 1.0).ravel() for plane in normalise(planes)]
    return bool(np.corrcoef(blurred)[0, 1] >= _MIN_CORRELATION)


def prepare_input(planes: NDArray[Any], diameter_px: float, inputs: Sequence[str] = DEFAULT_CHANNELS) -> NetworkInput:
    """Reduce an image to the network's scale and normalise it.

    The result does not refer to the source, whose memory can be freed.

    Parameters
    ----------
    planes
        Shape (C, H, W), uint8 or uint16; the channels of `inputs` (`channels_of`).
    diameter_px
        Equivalent diameter of a typical cell in the image.
    inputs
        Entries of `SegmentSection.channels`. A mixture feeds the input of the microtubules; an input that no entry
        feeds is 0.

    Raises
    ------
    ImageError
        If the image is below 16 px in height or width, or too large at the network's scale.
    """
    shape = (planes.shape[1], planes.shape[2])
    if min(shape) < _MIN_SOURCE_PX:
        raise ImageError(
            f"expected an image of at least {_MIN_SOURCE_PX} x {_MIN_SOURCE_PX} px, found {shape[0]} x {shape[1]} px"
        )
    reduced_shape = network_shape(*shape, diameter_px)
    if reduced_shape[0] * reduced_shape[1] > _MAX_NETWORK_PX2:
        raise ImageError(
            f"expected an image of at most {_MAX_NETWORK_PX2:,} px at the network's scale, found {reduced_shape[0]} x "
            f"{reduced_shape[1]} px (cells of {diameter_px:.1f} px in {shape[0]} x {shape[1]} px)"
        )
    reduced = reduce_planes(planes, reduced_shape)
    signal = planes_with_signal(reduced)
    # A plane without signal is set to 0: normalising would stretch its noise to full contrast and look like cells.
    reduced[~signal] = 0
    prepared = np.zeros((INPUTS, *reduced.shape[1:]), dtype=np.float32)
    start = 0
    for mixture in map(parse_mixture, inputs):
        own = reduced[start : start + len(mixture.channels)]
        start += len(mixture.channels)
        place = _INPUT_OF[mixture.channels[0]] if len(own) == 1 else JOINED
        if mixture.rule == "mean":
            own = own.mean(axis=0, keepdims=True)
        prepared[place] = normalise(own).max(axis=0)
    return NetworkInput(prepared, shape, bool(signal.all()), diameter_px)


def reduce_planes(planes: NDArray[Any], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Resize planes, averaging the covered pixels if they shrink.

    Parameters
    ----------
    planes
        Shape (C, H, W), any real type.
    shape
        Height and width of the result.

    Returns
    -------
    ndarray
        Shape (C, *shape), float32.
    """
    shrinks = shape[0] <= planes.shape[1] and shape[1] <= planes.shape[2]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    # Resizing before the conversion to float reads a quarter of the memory.
    small = [cv2.resize(plane, (shape[1], shape[0]), interpolation=method) for plane in planes]
    return np.stack(small).astype(np.float32)


def reduce_labels(labels: NDArray[np.uint16], shape: tuple[int, int]) -> NDArray[np.uint16]:
    """Resize a label image: each new pixel takes the label at its centre."""
    small = cv2.resize(labels, (shape[1], shape[0]), interpolation=cv2.INTER_NEAREST_EXACT)
    return small.astype(np.uint16, copy=False)


def without_haze(er: NDArray[np.float32]) -> NDArray[np.float32]:
    """Remove scattered light from the ER by unsharp masking.

    Light that bright cells scatter onto the background around them moves outlines outwards. A tenth of the blurred
    plane is subtracted from it, and the difference is divided by nine tenths, so that a flat plane stays as it is. The
    share gives the best AP@0.9 on synthetic images, where the blur hardly matters (docs/log.md, haze of the ER).

    Parameters
    ----------
    er
        Shape (h, w), float32, at the network's scale, normalised.

    Returns
    -------
    ndarray
        Shape (h, w), float32; negative beside bright cells.

    Examples
    --------
    >>> without_haze(np.ones((4, 4), dtype=np.float32)).round(6).tolist()[0]
    [1.0, 1.0, 1.0, 1.0]
    """
    haze = cv2.GaussianBlur(er, (0, 0), _HAZE_PX)
    sharp: NDArray[np.float32] = ((er - _HAZE_SHARE * haze) / (1 - _HAZE_SHARE)).astype(np.float32)
    return sharp


def even_nuclei(plane: NDArray[np.float32]) -> NDArray[np.float32]:
    """Make dim nuclei nearly as bright as bright ones, by dividing by a power of the brightness around each pixel.

    In one image, nuclei out of focus, or beside a few that divide or die, have a twentieth of the brightness of others,
    which the network was not trained on: it misses them, and a neighbour takes their cells. Within a nucleus, light
    and dark keep their ratio.

    Parameters
    ----------
    plane
        Shape (h, w), float32, the nucleus channel at the network's scale, normalised.

    Returns
    -------
    ndarray
        Shape (h, w), float32; 1 where it was 1 all around.

    Examples
    --------
    >>> round(float(even_nuclei(np.full((2, 2), 0.2, dtype=np.float32))[0, 0]), 3)  # 0.2 / 0.2 ** 0.7
    0.617
    """
    smooth = cv2.GaussianBlur(plane, (0, 0), _SPOT_PX)
    around = cv2.GaussianBlur(cv2.dilate(smooth, np.ones((_AROUND_PX, _AROUND_PX))), (0, 0), _AROUND_BLUR_PX)
    even: NDArray[np.float32] = (plane / np.maximum(around, _DIMMEST) ** _EVENNESS).astype(np.float32)
    return even


def compact_input(planes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return normalised planes as the compact network takes them, in use and in training.

    The ER loses its haze and nuclei become even; the plane of the microtubules or of the maximum stays, because masks
    from the maximum would lose without its haze.

    Parameters
    ----------
    planes
        Shape (3, h, w), float32: ER, nucleus, microtubules; not changed.

    Returns
    -------
    ndarray
        Shape (3, h, w), float32.
    """
    taken = planes.copy()
    taken[ER] = without_haze(planes[ER])
    taken[NUCLEUS_PLANE] = even_nuclei(planes[NUCLEUS_PLANE])
    return taken


def planes_with_signal(planes: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return which planes contain signal above the noise level.

    The noise level is estimated from the differences of neighbouring pixels. Over a million pixels, the range of pure
    noise stays below 10 of its standard deviations, and a single small cell exceeds that by far. A range of 3 gray
    levels or less never counts as signal: in 8 bits, rounding hides noise of that size.

    Parameters
    ----------
    planes
        Shape (C, H, W), reduced, in gray levels.

    Returns
    -------
    ndarray
        Shape (C,), bool.
    """
    steps = np.abs(np.diff(planes, axis=2)).reshape(len(planes), -1)
    noise = np.median(steps, axis=1) / (0.6745 * np.sqrt(2))
    signal: NDArray[np.bool_] = np.ptp(planes, axis=(1, 2)) > 10 * np.maximum(noise, 0.3)
    return signal


def normalise(planes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale each plane so that its 1st percentile becomes 0 and its 99th becomes 1, as Cellpose does.

    The span between the two percentiles counts as at least a tenth of the span up to the maximum, so that a mostly
    empty plane is not scaled by its background.

    Parameters
    ----------
    planes
        Shape (C, H, W).

    Returns
    -------
    ndarray
        Shape (C, H, W), float32; a plane without any contrast is 0 everywhere.
    """
    low, high = np.percentile(planes, [_LOW, _HIGH], axis=(1, 2), keepdims=True)
    top = planes.max(axis=(1, 2), keepdims=True)
    span = np.maximum(high - low, _MIN_SHARE * (top - low))
    scaled: NDArray[np.float32] = ((planes - low) / np.where(span > 0, span, 1)).astype(np.float32)
    return scaled
