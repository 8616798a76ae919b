"""Draw synthetic training images at the network's scale, with their flows and other targets."""

from typing import Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from hpa.atlas import draw_scene
from hpa.channels import CHANNELS
from hpa.work.processes import worker_processes
from hpa.work.progress import progress
from segment.inference.preprocess import reduce_labels, reduce_planes
from segment.network.cellpose import flows_from_labels
from segment.postprocess.nuclei import nucleus_cores
from segment.training.augment import Sample, clear_rim, nucleus_distance

SIDES_PX: Final = (112, 128, 144, 160, 176, 192, 208)
"""Side lengths to which frames are reduced for training; at 157 px a typical cell has its typical diameter."""

REFERENCE_PLANES: Final = tuple(CHANNELS.index(channel) for channel in ("yellow", "blue", "red"))
"""Indices of ER, nucleus and microtubules in an image of the atlas, in the order of the network's inputs."""

_INNER: Final = 0.82  # share of the side that is kept
_MULTIPLE: Final = 16  # the network halves its input four times
_BLANK_SHARE: Final = 0.3
_MAX_BLANK_PX: Final = 20
_STREAM: Final = 7_301  # separates these scenes from those of any atlas, whatever its seed


def draw_samples(seed: int, images: int, workers: int) -> list[Sample]:
    """Draw training images 0, 1, ...; the result does not depend on the number of `workers`."""
    samples = []
    with worker_processes(workers, initialise=_one_thread) as pool, progress("draw", images) as advance:
        for sample in pool.map(draw_sample, [seed] * images, range(images), chunksize=4):
            samples.append(sample)
            advance(1)
    return samples


def draw_sample(seed: int, number: int) -> Sample:
    """Draw one synthetic training image.

    Parameters
    ----------
    seed
        Seed of the training run.
    number
        Number of the image within the run.

    Returns
    -------
    Sample
        The inner part of a frame whose side is one of `SIDES_PX`.
    """
    rng = np.random.default_rng((_STREAM, seed, number))
    side = int(rng.choice(SIDES_PX))
    scene = draw_scene((_STREAM, seed, number), protein=False)
    shape = (side, side)
    # The ground truth omits cells whose nucleus lies outside the frame. A network cannot see that of a cell that
    # enters from the side, so it is trained on the inner part, where every cell is labelled; `segment.postprocess`
    # drops such cells later.
    kept = int(_INNER * side) // _MULTIPLE * _MULTIPLE
    inner = (slice((side - kept) // 2, (side + kept) // 2),) * 2
    cells, nuclei = reduce_labels(scene.cells, shape)[inner], reduce_labels(scene.nuclei, shape)[inner]
    planes = reduce_planes(scene.channels[list(REFERENCE_PLANES)], shape)[:, *inner]
    # Tiles are padded with zeros. Some training images get an empty rim, from which the network learns that a straight
    # border with zeros is the edge of the frame.
    blank = int(rng.integers(1, _MAX_BLANK_PX)) if rng.random() < _BLANK_SHARE else 0
    cells, nuclei = clear_rim(cells, blank), clear_rim(nuclei, blank)
    return make_sample(planes, cells, nuclei, blank)


def make_sample(
    planes: NDArray[np.float32], cells: NDArray[np.uint16], nuclei: NDArray[np.uint16], blank_px: int = 0
) -> Sample:
    """Compute the training targets of an image once (parameters as in `segment.training.augment.Sample`)."""
    return Sample(
        planes=planes.astype(np.float16),
        cells=cells,
        nuclei=nuclei,
        flows=flows_from_labels(cells).astype(np.float16),
        core=nucleus_cores(nuclei),
        nucleus_distance=nucleus_distance(cells, nuclei),
        blank_px=blank_px,
    )


def _one_thread() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
