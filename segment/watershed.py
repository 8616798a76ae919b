"""Cells without any network: what a network must beat."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu

from segment.inference.preprocess import NetworkInput
from segment.postprocess.cells import grow_nuclei
from segment.postprocess.labels import drop_small, enlarge_labels
from segment.postprocess.nuclei import nuclei_from_channel


def watershed_cells(
    image: NetworkInput, *, min_nucleus_area: float = 0.03, min_cell_area: float = 0.05
) -> NDArray[np.uint16]:
    """Grow thresholded nuclei over the thresholded ER.

    Parameters
    ----------
    image
        ER and nucleus, reduced and normalised.
    min_nucleus_area, min_cell_area
        Smaller ones are dropped; shares of a typical cell's area.

    Returns
    -------
    ndarray
        Shape `image.shape`, labels of cells.
    """
    reticulum, blue, _ = image.planes
    nuclei = nuclei_from_channel(blue, min_area=min_nucleus_area)
    smooth = np.sqrt(ndimage.gaussian_filter(np.clip(reticulum, 0, None), 1.0))  # the root brings dim cells up
    # Half of Otsu's threshold: it separates bright cells from dim ones where both are there.
    level = 0.5 * float(threshold_otsu(smooth)) if image.has_signal else np.inf  # type: ignore[no-untyped-call]
    cells = drop_small(grow_nuclei(smooth, nuclei, smooth > level), min_cell_area)
    return enlarge_labels(cells, smooth, level, image.shape)
