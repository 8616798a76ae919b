"""Measure how the mask step tells the nuclei of one cell from those of touching cells, and what is left to gain."""

from collections.abc import Callable, Sequence
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from bench.segmentation.images import planes_of, print_scores
from hpa.atlas.scene import Scene
from segment.config import SegmentSection
from segment.inference.diameter import typical_diameter_px
from segment.inference.predict import run_network
from segment.inference.preprocess import NetworkInput, prepare_input, reduce_labels
from segment.network.compact import NUCLEUS_PLANE, CompactNetwork
from segment.postprocess import decode as mask_step
from segment.postprocess.cells import merge_nuclei
from segment.postprocess.labels import Labels
from segment.training.scenes import REFERENCE_PLANES

_NEAR_PX = 30.0  # between centres, at the scale of the network
_MIN_OVERLAP = 0.4  # share of a nucleus that lies in a true one; otherwise nobody knows whose it is

_Merge = Callable[..., Labels]


def true_cells(found: Labels, truth: Labels) -> Labels:
    """Return the true label of most pixels of each nucleus found, shape (n,), or 0 where too few lie in one."""
    owners = []
    for label in range(1, int(found.max()) + 1):
        counts = np.bincount(truth[found == label], minlength=2)
        own = int(counts[1:].argmax()) + 1
        owners.append(own if counts[own] >= _MIN_OVERLAP * counts.sum() else 0)
    return np.array(owners, dtype=np.int32)


def divided_by_truth(found: Labels, truth: Labels) -> Labels:
    """Give each pixel of the nuclei found the label of the nearest true nucleus; those without one stay as they are."""
    _, nearest = ndimage.distance_transform_edt(truth == 0, return_indices=True)
    known = np.append(0, true_cells(found, truth))[found] > 0
    divided = np.where(known, truth[tuple(nearest)], (found > 0) * (found + int(truth.max())))
    return np.unique(divided, return_inverse=True)[1].reshape(found.shape).astype(np.int32)


def nuclei(net: CompactNetwork, drawn: Sequence[Scene]) -> None:
    """Print how many near nuclei are merged or left apart wrongly, and the AP of other ways of merging them."""
    diameter = typical_diameter_px(*drawn[0].cells.shape)
    inputs = {
        "default path": [prepare_input(planes_of(scene), diameter) for scene in drawn],
        "maximum of ER and microtubules": [
            prepare_input(scene.channels[list(REFERENCE_PLANES)][[0, 2, 1]], diameter, ("yellow|red", "blue"))
            for scene in drawn
        ],
    }
    for name, seen in inputs.items():
        outputs = run_network(net, seen)
        truths = [reduce_labels(s.nuclei, o.shape[1:]).astype(np.int32) for s, o in zip(drawn, outputs, strict=True)]
        pairs: list[tuple[bool, bool]] = []

        def counted(found: Labels, *others: object, truth: Labels) -> Labels:
            merged = merge_nuclei(found, *others)  # type: ignore[arg-type]
            pairs.extend(_pairs(found, merged, truth))  # noqa: B023 # called within this round
            return merged

        masks = {
            "flows end together and do not part": _decode(outputs, seen, truths, counted),
            "every nucleus found is a cell": _decode(outputs, seen, truths, lambda found, *_, truth: found),
            "true nuclei": _decode(outputs, seen, truths, lambda found, *_, truth: divided_by_truth(found, truth)),
        }
        one_cell, merged = np.array(pairs).reshape(-1, 2).T
        title = (
            f"nuclei, {name}: of {one_cell.sum()} near pairs in one cell {(one_cell & ~merged).sum()} left apart, of "
            f"{(~one_cell).sum()} in two cells {(~one_cell & merged).sum()} merged"
        )
        print_scores(title, masks, drawn)


def _pairs(found: Labels, merged: Labels, truth: Labels) -> list[tuple[bool, bool]]:
    """Return of each pair of near nuclei whether they are one cell's, and whether they were merged."""
    count = int(found.max())
    centres = np.array(ndimage.center_of_mass(found > 0, found, range(1, count + 1))).reshape(-1, 2)
    owners = true_cells(found, truth)
    labels = ndimage.maximum(merged, found, range(1, count + 1))
    near = cKDTree(centres).query_pairs(_NEAR_PX) if count else set()
    return [(bool(owners[a] == owners[b]), bool(labels[a] == labels[b])) for a, b in near if owners[a] and owners[b]]


def _decode(
    outputs: Sequence[NDArray[np.float32]], seen: Sequence[NetworkInput], truths: Sequence[Labels], merge: _Merge
) -> list[NDArray[np.uint16]]:
    cells = []
    for output, image, truth in zip(outputs, seen, truths, strict=True):
        with patch.object(mask_step, "merge_nuclei", lambda *given, truth=truth: merge(*given, truth=truth)):
            found = mask_step.decode(output, image.planes[NUCLEUS_PLANE], SegmentSection(), image.shape)
        cells.append(found.cells)
    return cells
