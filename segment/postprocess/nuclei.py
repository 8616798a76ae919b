"""Find nuclei in the network output, or in the nucleus channel if the network does not detect them."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu

from segment.network.scale import NETWORK_DIAMETER_PX
from segment.postprocess.labels import Labels, bounding_boxes, drop_small, flood

_CORE_DEPTH: Final = 0.65  # pixels deeper than this share of a nucleus's greatest depth form its core


def nucleus_cores(nuclei: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
    """Return the cores of nuclei, which stay apart where nuclei touch; the network is trained to detect them.

    Parameters
    ----------
    nuclei
        Shape (H, W), labels of nuclei.

    Returns
    -------
    ndarray
        Shape (H, W), bool, true for pixels deeper in their nucleus than 0.65 of its greatest depth.
    """
    core = np.zeros(nuclei.shape, dtype=bool)
    for label, window in bounding_boxes(nuclei):
        depth = ndimage.distance_transform_edt(np.pad(nuclei[window] == label, 1))[1:-1, 1:-1]
        core[window] |= depth > _CORE_DEPTH * depth.max()
    return core


def nuclei_from_logits(
    nucleus: NDArray[np.float32], core: NDArray[np.float32], *, level: float, min_area: float
) -> Labels:
    """Label the nuclei in the network output.

    Parameters
    ----------
    nucleus, core
        Shape (H, W), logits of being in a nucleus and of being in the core of one.
    level
        Logit above which a pixel belongs to a nucleus.
    min_area
        Smaller nuclei are dropped; a share of a typical cell's area.

    Returns
    -------
    ndarray
        Shape (H, W), labels 1..n; each core gives one nucleus, and so does each connected piece without a core.
    """
    inside = nucleus > level
    seeds, n = ndimage.label((core > 0) & inside)
    pieces, _ = ndimage.label(inside)
    coreless = np.setdiff1d(pieces, pieces[seeds > 0])
    seeds = np.where(np.isin(pieces, coreless) & inside, pieces + n, seeds)
    return drop_small(flood(-nucleus, seeds, inside), min_area)


def nuclei_from_channel(plane: NDArray[np.float32], *, min_area: float) -> Labels:
    """Label nuclei in the nucleus channel by threshold and shape, without a network.

    Parameters
    ----------
    plane
        Shape (H, W), the nucleus channel at the network's scale.
    min_area
        Smaller nuclei are dropped; a share of a typical cell's area.

    Returns
    -------
    ndarray
        Shape (H, W), labels 1..n.
    """
    smooth = np.sqrt(ndimage.gaussian_filter(np.clip(plane, 0, None), 1.0))  # the root lifts dim nuclei
    if smooth.max() <= smooth.min():
        return np.zeros(plane.shape, dtype=np.int32)
    inside = ndimage.binary_fill_holes(smooth > float(threshold_otsu(smooth)))  # type: ignore[no-untyped-call]
    depth = ndimage.gaussian_filter(ndimage.distance_transform_edt(inside), 1.0)
    size = int(NETWORK_DIAMETER_PX / 5) | 1
    peaks = (depth == ndimage.maximum_filter(depth, size=size)) & inside
    return drop_small(flood(-depth, ndimage.label(peaks, np.ones((3, 3)))[0], inside), min_area)
