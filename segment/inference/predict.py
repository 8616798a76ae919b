"""Run the network over images: cut them into Cellpose's tiles, fill batches, and join the outputs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from hpa.work.device import has_fast_bfloat16
from segment.config import Precision, SegmentSection
from segment.inference.preprocess import NetworkInput, compact_input
from segment.masks import Masks
from segment.network.cellpose import FLOW_SCALE, BaseModel, average_tiles, make_tiles
from segment.network.compact import NUCLEUS_PLANE
from segment.network.weights import load_network
from segment.postprocess.decode import decode

_BATCH_SIZE: Final = 8
_TILE_MULTIPLE: Final = 16
_MAX_TILE_PX: Final = 256
_DINO_TILE_PX: Final = 384


@lru_cache(maxsize=2)
def cached_network(name: str, device: str, precision: Precision = "32") -> BaseModel:
    """Load a network (`segment.network.weights.load_network`) once per process, in the arithmetic of its use."""
    net = load_network(name, torch.device(device))
    if uses_bfloat16(precision, device):
        net.dtype = torch.bfloat16  # converts the weights
    return net


def uses_bfloat16(precision: Precision, device: str) -> bool:
    """Return whether a recipe's precision means bfloat16 on a device."""
    return has_fast_bfloat16(device) if precision == "auto" else precision == "bf16"


def segment_images(net: BaseModel, images: Sequence[NetworkInput], section: SegmentSection) -> Iterator[Masks]:
    """Segment the cells and nuclei of images.

    Parameters
    ----------
    net
        The network, compact or Cellpose.
    images
        The images, prepared for the network.
    section
        How to make masks from the network output.

    Yields
    ------
    Masks
        At the size of the source, in the order of the images.
    """
    for output, image in zip(run_network(net, images), images, strict=True):
        yield decode(output, image.planes[NUCLEUS_PLANE], section, image.shape)


def run_network(
    net: BaseModel, images: Sequence[NetworkInput], batch_size: int = _BATCH_SIZE
) -> list[NDArray[np.float32]]:
    """Run a network over images of any size.

    Images are cut into Cellpose's overlapping tiles, and tiles of different images share batches. A batch that does
    not fit into device memory is split in half.

    Parameters
    ----------
    net
        The network, compact or Cellpose.
    images
        The images, prepared for the network.
    batch_size
        Maximum number of tiles per batch.

    Returns
    -------
    list of ndarray
        For each image the network output of shape (K, h, w), as `segment.postprocess.decode.decode` expects it; the
        flows are scaled to unit length.

    Raises
    ------
    torch.OutOfMemoryError
        If not even a single tile fits into device memory.
    """
    tile_px = _DINO_TILE_PX if net.backbone.startswith("dino") else _MAX_TILE_PX
    compact = net.backbone == "compact"
    tilings = [
        _cut(compact_input(image.planes) if compact else image.planes, tile_px, fixed=not compact) for image in images
    ]
    tiles = [(index, tile) for index, tiling in enumerate(tilings) for tile in range(len(tiling.tiles))]
    outputs: dict[tuple[int, int], NDArray[np.float32]] = {}
    for shape in sorted({tiling.tiles.shape[1:] for tiling in tilings}):
        same_shape = [(index, tile) for index, tile in tiles if tilings[index].tiles.shape[1:] == shape]
        results = _forward(net, [tilings[index].tiles[tile] for index, tile in same_shape], batch_size)
        outputs.update(zip(same_shape, results, strict=True))
    return [
        _join(tiling, [outputs[index, tile] for tile in range(len(tiling.tiles))])
        for index, tiling in enumerate(tilings)
    ]


@dataclass(frozen=True)
class _Tiling:
    """An image cut into tiles.

    Parameters
    ----------
    tiles
        Shape (n, C, h, w).
    rows, columns
        Bounds of each tile within the padded image.
    padded
        Height and width of the padded image.
    inner
        Window of the image within the padded image.
    """

    tiles: NDArray[np.float32]
    rows: list[list[int]]
    columns: list[list[int]]
    padded: tuple[int, int]
    inner: tuple[slice, slice]


def _cut(image: NDArray[np.float32], tile_px: int, *, fixed: bool) -> _Tiling:
    # The compact network is fully convolutional and takes any multiple of 16; Cellpose's take one tile size only.
    min_side, multiple = (tile_px, 1) if fixed else (_TILE_MULTIPLE, _TILE_MULTIPLE)
    padding = [max(min_side, -(-side // multiple) * multiple) - side for side in image.shape[1:]]
    before = [size // 2 for size in padding]
    inner = (
        slice(before[0], before[0] + image.shape[1]),
        slice(before[1], before[1] + image.shape[2]),
    )
    around = [(first, size - first) for first, size in zip(before, padding, strict=True)]
    padded = np.pad(image, [(0, 0), *around])
    tiles, rows, columns, height, width = make_tiles(padded, bsize=tile_px)
    return _Tiling(tiles.reshape(-1, *tiles.shape[2:]), rows, columns, (height, width), inner)


def _join(tiling: _Tiling, outputs: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    if len(outputs) > 1:
        joined = average_tiles(np.stack(outputs), tiling.rows, tiling.columns, *tiling.padded)
    else:
        joined = outputs[0]
    output = np.ascontiguousarray(joined[:, *tiling.inner], dtype=np.float32)
    output[-3:-1] /= FLOW_SCALE
    return output


def _forward(net: BaseModel, tiles: Sequence[NDArray[np.float32]], batch_size: int) -> list[NDArray[np.float32]]:
    outputs: list[NDArray[np.float32]] = []
    while len(outputs) < len(tiles):
        batch = torch.from_numpy(np.stack(tiles[len(outputs) : len(outputs) + batch_size]))
        try:
            with torch.inference_mode():
                result = net(batch.to(net.device, net.dtype))[0].float().cpu().numpy()
        except torch.OutOfMemoryError:
            if batch_size == 1:
                raise
            batch_size //= 2
            continue
        outputs.extend(result)
    return outputs
