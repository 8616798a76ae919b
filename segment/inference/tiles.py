"""A network over images of any size: Cellpose's tiles, those of many images in one batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from segment.network.cellpose import FLOW_SCALE, BaseModel, average_tiles, make_tiles

_TILE_MULTIPLE: Final = 16
_MAX_TILE_PX: Final = 256
_DINO_TILE_PX: Final = 384


def run_tiles(net: BaseModel, images: Sequence[NDArray[np.float32]], batch: int) -> list[NDArray[np.float32]]:
    """Run a network over images with Cellpose's tiling; the tiles of all images fill the batches together.

    Where the memory of the device is too small for a batch, half of it is tried, and so on.

    Parameters
    ----------
    net
        The network.
    images
        Each of shape (C, H, W), of any size.
    batch
        Tiles in a batch.

    Returns
    -------
    list of ndarray
        For each image the outputs of the network, shape (K, H, W); the flows are scaled to unit length.
    """
    tile_px = _DINO_TILE_PX if net.backbone.startswith("dino") else _MAX_TILE_PX
    cuts = [_cut(image, tile_px, fixed=net.backbone != "compact") for image in images]
    answers: dict[tuple[int, int], NDArray[np.float32]] = {}
    places = [(index, tile) for index, cut in enumerate(cuts) for tile in range(len(cut.tiles))]
    for shape in sorted({cut.tiles.shape[1:] for cut in cuts}):
        alike = [place for place in places if cuts[place[0]].tiles.shape[1:] == shape]
        found = _forward(net, [cuts[index].tiles[tile] for index, tile in alike], batch)
        answers.update(zip(alike, found, strict=True))
    return [_joined(cut, [answers[index, tile] for tile in range(len(cut.tiles))]) for index, cut in enumerate(cuts)]


@dataclass(frozen=True)
class _Cut:
    """An image in tiles: their pixels (n, C, h, w), where they lie in the padded image, and where it lies in that."""

    tiles: NDArray[np.float32]
    rows: list[list[int]]
    columns: list[list[int]]
    padded: tuple[int, int]
    inner: tuple[slice, slice]


def _cut(image: NDArray[np.float32], tile_px: int, *, fixed: bool) -> _Cut:
    # A fully convolutional network takes any multiple of 16; the big ones know one size of tile only.
    least, multiple = (tile_px, 1) if fixed else (_TILE_MULTIPLE, _TILE_MULTIPLE)
    padding = [max(least, -(-side // multiple) * multiple) - side for side in image.shape[1:]]
    before = [size // 2 for size in padding]
    inner = (
        slice(before[0], before[0] + image.shape[1]),
        slice(before[1], before[1] + image.shape[2]),
    )
    around = [(first, size - first) for first, size in zip(before, padding, strict=True)]
    padded = np.pad(image, [(0, 0), *around])
    tiles, rows, columns, height, width = make_tiles(padded, bsize=tile_px)
    return _Cut(tiles.reshape(-1, *tiles.shape[2:]), rows, columns, (height, width), inner)


def _joined(cut: _Cut, answers: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    whole = average_tiles(np.stack(answers), cut.rows, cut.columns, *cut.padded) if len(answers) > 1 else answers[0]
    outputs = np.ascontiguousarray(whole[:, *cut.inner], dtype=np.float32)
    outputs[-3:-1] /= FLOW_SCALE
    return outputs


def _forward(net: BaseModel, tiles: Sequence[NDArray[np.float32]], batch: int) -> list[NDArray[np.float32]]:
    outputs: list[NDArray[np.float32]] = []
    while len(outputs) < len(tiles):
        some = torch.from_numpy(np.stack(tiles[len(outputs) : len(outputs) + batch]))
        try:
            with torch.inference_mode():
                found = net(some.to(net.device, net.dtype))[0].float().cpu().numpy()
        except torch.OutOfMemoryError:
            if batch == 1:
                raise
            batch //= 2
            continue
        outputs.extend(found)
    return outputs
