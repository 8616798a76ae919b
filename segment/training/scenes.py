"""Synthetic images made ready for training: drawn, reduced, with Cellpose's flows computed once."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from typing import Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from hpa.atlas import draw_scene
from hpa.channels import CHANNELS
from hpa.work.progress import progress
from segment.inference.preprocess import reduce_labels, reduce_planes
from segment.network.cellpose import flows_from_labels
from segment.postprocess.nuclei import nucleus_cores
from segment.training.augment import Sample, clear_rim, nucleus_distance

SIDES_PX: Final = (112, 128, 144, 160, 176, 192, 208)
"""Sides of the frame at which the network learns: 157 px is where a typical cell has its typical diameter."""

REFERENCE_PLANES: Final = tuple(CHANNELS.index(channel) for channel in ("yellow", "blue", "red"))
"""Where ER, nucleus and microtubules stand in an image of the atlas: the order of the network."""

_INNER: Final = 0.82
_MULTIPLE: Final = 16  # what the network can halve four times
_BLANK_SHARE: Final = 0.3
_MAX_BLANK_PX: Final = 20
_STREAM: Final = 7_301  # keeps these scenes apart from those of every atlas, whatever its seed


def draw_sample(seed: int, number: int) -> Sample:
    """Draw one synthetic image for training.

    Parameters
    ----------
    seed
        Of the training run.
    number
        Of the image.

    Returns
    -------
    Sample
        The inner part of a frame whose side is one of `SIDES_PX`.
    """
    rng = np.random.default_rng((_STREAM, seed, number))
    side = int(rng.choice(SIDES_PX))
    scene = draw_scene((_STREAM, seed, number), protein=False)
    shape = (side, side)
    # The truth leaves out cells whose nucleus is outside the frame. A network cannot know that of a cell that enters
    # from the side, so it learns on the inner part, where every cell is labelled; `segment.postprocess` drops them
    # later.
    kept = int(_INNER * side) // _MULTIPLE * _MULTIPLE
    inner = (slice((side - kept) // 2, (side + kept) // 2),) * 2
    cells, nuclei = reduce_labels(scene.cells, shape)[inner], reduce_labels(scene.nuclei, shape)[inner]
    planes = reduce_planes(scene.channels[list(REFERENCE_PLANES)], shape)[:, *inner]
    # Tiles are padded with nothing: in some images the network learns that a straight edge to nothing is a frame's.
    blank = int(rng.integers(1, _MAX_BLANK_PX)) if rng.random() < _BLANK_SHARE else 0
    cells, nuclei = clear_rim(cells, blank), clear_rim(nuclei, blank)
    return make_sample(planes, cells, nuclei, blank)


def make_sample(
    planes: NDArray[np.float32], cells: NDArray[np.uint16], nuclei: NDArray[np.uint16], blank_px: int = 0
) -> Sample:
    """Compute, once, all that training needs to know of an image (parameters: `segment.training.augment.Sample`)."""
    return Sample(
        planes=planes.astype(np.float16),
        cells=cells,
        nuclei=nuclei,
        flows=flows_from_labels(cells).astype(np.float16),
        core=nucleus_cores(nuclei),
        reach=nucleus_distance(cells, nuclei),
        blank_px=blank_px,
    )


def draw_samples(seed: int, images: int, workers: int) -> list[Sample]:
    """Draw images 0, 1, .. for training; the same for any number of `workers`."""
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("forkserver"), initializer=_one_thread)
    samples = []
    with pool, progress("draw", images) as advance:
        for sample in pool.map(draw_sample, [seed] * images, range(images), chunksize=4):
            samples.append(sample)
            advance(1)
    return samples


def _one_thread() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
