"""Score the segmentation of real images over a range of diameters, because few cells decide little at a single one."""

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu, threshold_triangle
from skimage.segmentation import watershed

from hpa.pixels import read_label_image, read_plane
from segment.config import SegmentSection
from segment.inference.predict import segment_images
from segment.inference.preprocess import prepare_input
from segment.network.compact import CompactNetwork
from segment.score import score_images, summarise
from segment.watershed import watershed_cells
from tests.support.real_images import real_data

DIAMETERS_PX: Final = tuple(range(80, 121, 4))
_MIN_NUCLEUS_PX: Final = 200  # in a field of 512 px; smaller objects are debris


def plain_watershed(planes: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Flood the smoothed ER plane from Otsu-thresholded nuclei, within a triangle threshold of the ER.

    Of the Otsu, Li, triangle and mean thresholds, the triangle works best here.

    Parameters
    ----------
    planes
        ER and nucleus planes, shape (2, H, W).

    Returns
    -------
    ndarray
        Label image of the cells, shape (H, W).
    """
    reticulum, blue = (ndimage.gaussian_filter(plane.astype(np.float64), 2.0) for plane in planes)
    pieces, _ = ndimage.label(blue > threshold_otsu(blue))  # type: ignore[no-untyped-call]
    nuclei = np.where((np.bincount(pieces.ravel()) >= _MIN_NUCLEUS_PX)[pieces], pieces, 0)
    seen = (reticulum > threshold_triangle(reticulum)) | (nuclei > 0)  # type: ignore[no-untyped-call]
    cells: NDArray[np.int32] = watershed(-reticulum, nuclei, mask=seen)  # type: ignore[no-untyped-call]
    return cells


def real(net: CompactNetwork, diameters_px: tuple[int, ...]) -> None:
    """Print mean AP and pooled F1 at IoU 0.5 of each method on real images with masks, if there are any."""
    root = real_data()
    references = {
        path.stem.removesuffix("_mask"): read_label_image(path) for path in (root / "masks512").glob("*_mask.png")
    }
    if not references:
        print(f"\nreal: skipped, expected masks in {root / 'masks512'}, found none")
        return
    images: dict[str, NDArray[np.uint8]] = {
        name: np.stack([read_plane(root / "images512" / f"{name}_{channel}.png") for channel in ("yellow", "blue")])
        for name in references
    }

    def found(cells_of: Callable[[str], NDArray[np.integer]]) -> tuple[float, float]:
        table = summarise(score_images([(name, cells_of(name), truth) for name, truth in references.items()]))
        return float(table["mean_ap"].iloc[0]), float(table["pooled_f1"].iloc[0])

    cells = sum(len(np.unique(truth)) - 1 for truth in references.values())
    print(f"\nreal, {len(images)} images, {cells} cells, mean AP and pooled F1 at IoU 0.5:")
    print("  plain watershed                {:.3f}  {:.3f}".format(*found(lambda name: plain_watershed(images[name]))))
    rows = []
    for diameter in diameters_px:
        seen = {name: prepare_input(planes, diameter) for name, planes in images.items()}
        masks = dict(zip(seen, segment_images(net, list(seen.values()), SegmentSection()), strict=True))
        tuned = found(lambda name, seen=seen: watershed_cells(seen[name]))  # type: ignore[misc]
        rows.append((*tuned, *found(lambda name, masks=masks: masks[name].cells)))  # type: ignore[misc]
        print(f"  diameter {diameter:3d} px: tuned watershed {tuned[0]:.3f}  {tuned[1]:.3f}", end="")
        print("   default path {:.3f}  {:.3f}".format(*rows[-1][2:]))
    means = np.mean(rows, axis=0)
    print("  mean of all     : tuned watershed {:.3f}  {:.3f}   default path {:.3f}  {:.3f}".format(*means))
