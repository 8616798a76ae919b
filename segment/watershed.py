"""Segment cells by thresholds and watershed, without a network: the baseline that a network must beat."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu

from segment.inference.preprocess import NetworkInput
from segment.postprocess.labels import drop_small, enlarge_labels, flood
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
        Minimum areas of nuclei and cells, as shares of a typical cell's area.

    Returns
    -------
    ndarray
        Shape `image.shape`, uint16, labels of cells.
    """
    er, nucleus, _ = image.planes
    nuclei = nuclei_from_channel(nucleus, min_area=min_nucleus_area)
    smooth = np.sqrt(ndimage.gaussian_filter(np.clip(er, 0, None), 1.0))  # the root lifts dim cells
    # Half of Otsu's threshold, which separates bright cells from dim ones if an image has both.
    level = 0.5 * float(threshold_otsu(smooth)) if image.has_signal else np.inf  # type: ignore[no-untyped-call]
    cells = drop_small(flood(-smooth, nuclei, (smooth > level) | (nuclei > 0)), min_cell_area)
    return enlarge_labels(cells, smooth, level, image.shape)
