"""From an image to its cells: masks and crops."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from crops.config import CropsSection, Window
from crops.depth import Planes, to_8_bit
from crops.image import cut_cells, in_source_values
from crops.measure import find_cells
from crops.store import CropStore, open_store
from hpa.channels import CHANNELS, Channel
from hpa.config import DataSection, parse_section
from hpa.pixels import BIT_DEPTHS, MAX_LABELS, depth_of, expand_to_16_bits
from hpa.work.folder import open_work
from pipeline.recipe import Recipe
from segment.masks import Masks


def segment(
    image: NDArray[Any],
    channel_names: Sequence[str] = CHANNELS,
    diameter_px: float | None = None,
    *,
    recipe: Recipe | None = None,
    device: str = "auto",
) -> Masks:
    """Segment the cells and nuclei of an image, as the segment stage does.

    Parameters
    ----------
    image
        Shape (C, H, W), uint8 or uint16.
    channel_names
        Names of the C channels: red (microtubules), green (protein), blue (nucleus), yellow (ER). Needed are blue, and
        yellow or red.
    diameter_px
        Equivalent diameter of a typical cell, in px; None estimates it from the image. A run estimates it from a sample
        of all its images, which is more accurate.
    recipe
        Its `[segment]` section is used; None uses the defaults.
    device
        Device of the network: "auto", "cpu", "cuda", ...

    Returns
    -------
    Masks
        Label images of cells and nuclei, uint16 of shape (H, W).

    Raises
    ------
    ValueError
        If the image does not fit the channel names, or the diameter is not above 0.
    ImageError
        If the image is smaller than 16 px in height or width.
    UserError
        If a channel, the network or the device is not available.

    Examples
    --------
    >>> import numpy as np
    >>> masks = segment(np.zeros((4, 64, 64), dtype=np.uint8), device="cpu")
    >>> masks.cells.shape, int(masks.cells.max())
    ((64, 64), 0)
    """
    from hpa.work.device import one_thread, resolve_device
    from segment.inference.diameter import own_diameter_px, typical_diameter_px
    from segment.inference.predict import cached_network, segment_images
    from segment.inference.preprocess import channels_of, channels_to_read, prepare_input
    from segment.run import find_diameter_px

    section, names = (recipe or Recipe()).segment, _check_channels(image, channel_names)
    if diameter_px is not None and not diameter_px > 0:
        raise ValueError(f"expected a diameter_px above 0, or None, found {diameter_px}")
    inputs = channels_to_read(section, DataSection(channels=names))
    planes = image[[names.index(channel) for channel in channels_of(inputs)]]
    shape, device = (image.shape[1], image.shape[2]), resolve_device(device)
    network = cached_network(section.network, device, section.precision)
    given = diameter_px or section.diameter_px
    with one_thread(device):
        sample = [prepare_input(planes, typical_diameter_px(*shape), inputs)]
        diameter = given or find_diameter_px(sample, shape, section, device)
        (masks,) = segment_images(network, [prepare_input(planes, diameter, inputs)], section)
        if not given and (own := own_diameter_px(masks.cells, diameter)):
            (masks,) = segment_images(network, [prepare_input(planes, own, inputs)], section)
    return masks


@dataclass(frozen=True)
class Crops:
    """Crops of the cells of one image.

    Parameters
    ----------
    pixels
        Shape (n, C, S, S), uint8, including what lies outside the own cell.
    masks
        Shape (n, S, S), bool: the pixels of each crop's own cell.
    table
        One row per crop, with the columns of ``crops.parquet`` except shard and row (`crops.table`).
    dropped
        cell_label and reason of the cells without a crop.
    channel_names
        Names of the C channels.
    """

    pixels: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    table: pd.DataFrame
    dropped: pd.DataFrame
    channel_names: tuple[Channel, ...]

    def __len__(self) -> int:
        return len(self.pixels)


def crop(
    image: NDArray[Any],
    masks: Masks,
    size_px: int | None = None,
    *,
    channel_names: Sequence[str] = CHANNELS,
    image_id: str = "image",
    recipe: Recipe | None = None,
    bit_depth: int | None = None,
) -> Crops:
    """Cut a crop around each cell of an image, as the crops stage does.

    Parameters
    ----------
    image
        Shape (C, H, W), uint8 or uint16.
    masks
        Its cells and nuclei, from `segment` or from elsewhere.
    size_px
        Height and width of a crop; None uses that of the recipe, by default 128.
    channel_names
        Names of the C channels.
    image_id
        Id of the image in the tables.
    recipe
        Its `[crops]` section is used; None uses the defaults.
    bit_depth
        Bits that the values of a uint16 image use: 8, 10, 12, 14 or 16; None takes the least that hold its highest
        value. A run takes one number for all its images.

    Returns
    -------
    Crops
        The crops with their table. An image without a usable cell has one crop, the full frame, with cell_label 0.

    Raises
    ------
    ValueError
        If image, masks and channel names do not fit each other.
    UserError
        If `size_px` is not what a recipe may say.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.full((1, 8, 8), 100, dtype=np.uint8)
    >>> cells = np.zeros((8, 8), dtype=np.uint16)
    >>> cells[1:3, 1:5], cells[5:8, 2:6] = 1, 2
    >>> crops = crop(image, Masks(cells, np.zeros_like(cells)), 16, channel_names=["blue"])
    >>> crops.pixels.shape
    (2, 1, 16, 16)
    >>> crops.table[["cell_label", "area_px", "touches_border"]]
       cell_label  area_px  touches_border
    0           1        8           False
    1           2       12            True
    """
    names, section = _check_channels(image, channel_names), (recipe or Recipe()).crops
    if size_px is not None:
        section = parse_section(CropsSection, "crops", section.model_dump() | {"size_px": size_px})
    for name, labels in (("cells", masks.cells), ("nuclei", masks.nuclei)):
        if labels.shape != image.shape[1:]:
            raise ValueError(f"expected {name} of the image's size {image.shape[1:]}, found {labels.shape}")
        if labels.dtype.kind not in "iu" or labels.min(initial=0) < 0 or labels.max(initial=0) > MAX_LABELS:
            raise ValueError(f"expected {name} as integers from 0 to {MAX_LABELS}, found {labels.dtype} or others")
    cells, nuclei = (labels.astype(np.uint16, copy=False) for labels in (masks.cells, masks.nuclei))
    cut, columns, dropped = cut_cells(_to_8_bit(image, section, bit_depth), find_cells(cells), nuclei, section, names)
    table = pd.DataFrame({"image_id": image_id} | columns, index=range(len(cut.crops)))
    return Crops(cut.crops, cut.masks, table, pd.DataFrame(dropped), names)


def _to_8_bit(image: NDArray[Any], section: CropsSection, bit_depth: int | None) -> Planes:
    if image.dtype == np.uint8:
        return to_8_bit(image, section)
    highest = int(image.max(initial=0))
    depth = depth_of(highest) if bit_depth is None else bit_depth
    if depth not in BIT_DEPTHS or highest >= 2**depth:
        raise ValueError(
            f"expected a bit_depth of {', '.join(map(str, BIT_DEPTHS))} that holds {highest}, found {depth}"
        )
    return in_source_values(to_8_bit(expand_to_16_bits(image, depth), section), depth)


def open_crops(work: str | Path, window: str = "cells") -> CropStore:
    """Open the crop store of a work folder.

    Parameters
    ----------
    work
        The work folder.
    window
        Which of its stores: cells, full_frame, five_crop, random, grid, brightest.

    Returns
    -------
    CropStore
        Reads crops by their position in its ``table``.

    Raises
    ------
    UserError
        If there is no finished store, or its inputs changed since it was made.
    """
    return open_store(open_work(Path(work)), cast(Window, window))


def _check_channels(image: NDArray[Any], channel_names: Sequence[str]) -> tuple[Channel, ...]:
    if image.ndim != 3 or len(image) != len(channel_names) or image.dtype not in (np.uint8, np.uint16):
        raise ValueError(
            f"expected an image of shape ({len(channel_names)}, H, W), uint8 or uint16, "
            f"found shape {image.shape}, {image.dtype}"
        )
    if not image.size:
        raise ValueError(f"expected an image with pixels, found shape {image.shape}")
    if unknown := [name for name in channel_names if name not in CHANNELS]:
        raise ValueError(f"expected channel names among {', '.join(CHANNELS)}, found {unknown[0]!r}")
    if len(set(channel_names)) < len(channel_names):
        raise ValueError(f"expected every channel name once, found {', '.join(channel_names)}")
    return cast(tuple[Channel, ...], tuple(channel_names))
