"""Score the segmentation of images whose cells have different sizes, in one data set."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bench.segmentation.images import SIDE_PX, planes_of
from hpa.atlas import draw_scene
from hpa.atlas.scene import MIN_VISIBLE_NUCLEUS, Scene
from segment.config import SegmentSection
from segment.inference.diameter import own_diameter_px, typical_diameter_px
from segment.inference.predict import segment_images
from segment.inference.preprocess import prepare_input
from segment.network.compact import CompactNetwork
from segment.run import find_diameter_px
from segment.score import score_images, summarise

STREAM: Final = 7_304  # used by no training, validation or atlas
SMALLEST, LARGEST = 0.65, 1.5
"""Range of the magnification, relative to that of the Human Protein Atlas."""

_Labels = NDArray[np.integer[Any]]


def data_set_diameter_px(images: Sequence[NDArray[Any]], section: SegmentSection) -> float:
    """Return the diameter that a run estimates for images of one size, shape (C, H, W) each."""
    shape = (images[0].shape[1], images[0].shape[2])
    seen = [prepare_input(planes, typical_diameter_px(*shape), section.channels) for planes in images]
    return find_diameter_px(seen, shape, section, "cpu")


def at_own_diameter(
    net: CompactNetwork, images: Sequence[NDArray[Any]], section: SegmentSection, first_px: float
) -> list[tuple[_Labels, float]]:
    """Segment images as a run with `diameter_px = 0` does, and return their cells and the diameter used in the end.

    Parameters
    ----------
    net
        The network.
    images
        Shape (C, H, W) each.
    section
        How to make masks.
    first_px
        The diameter of the data set (`data_set_diameter_px`).
    """
    found: list[tuple[_Labels, float]] = []
    for planes in images:
        (masks,) = segment_images(net, [prepare_input(planes, first_px, section.channels)], section)
        if own_px := own_diameter_px(masks.cells, first_px):
            (masks,) = segment_images(net, [prepare_input(planes, own_px, section.channels)], section)
        found.append((masks.cells, own_px or first_px))
    return found


def mixed_scenes(count: int) -> list[tuple[Scene, float]]:
    """Draw frames of one size that show cells at different magnifications, with the diameter of their typical cell."""
    frame_px = round(SMALLEST * SIDE_PX)
    drawn = []
    for number, factor in enumerate(np.geomspace(SMALLEST, LARGEST, count)):
        scene = draw_scene((STREAM, number), size_px=round(factor * SIDE_PX), protein=False)
        areas = np.bincount(scene.cells.ravel())[1:]
        drawn.append((crop(scene, frame_px), float(np.median(np.sqrt(areas * 4 / np.pi)))))
    return drawn


def crop(scene: Scene, side_px: int) -> Scene:
    """Cut the centre out of a scene; cells of whose nucleus too little is left are not counted, as in the atlas."""
    start = (scene.cells.shape[0] - side_px) // 2
    window = (slice(start, start + side_px),) * 2
    whole = np.bincount(scene.nuclei.ravel(), minlength=int(scene.cells.max()) + 1)
    left = np.bincount(scene.nuclei[window].ravel(), minlength=len(whole))
    kept = left >= np.maximum(MIN_VISIBLE_NUCLEUS * whole, 1)
    kept[0] = False
    number = (np.cumsum(kept) * kept).astype(np.uint16)
    cells, nuclei = number[scene.cells[window]], number[scene.nuclei[window]]
    targets = [target for target, stays in zip(scene.targets, kept[1:], strict=False) if stays]
    return Scene(scene.channels[:, *window], cells, nuclei, targets)


def sizes(net: CompactNetwork, count: int) -> None:
    """Print the scores with one diameter for all images, with one for each image, and with the true ones."""
    drawn = mixed_scenes(count)
    images, true_px = [planes_of(scene) for scene, _ in drawn], np.array([diameter for _, diameter in drawn])
    section = SegmentSection()
    one_px = data_set_diameter_px(images, section)

    def at(diameters_px: Sequence[float]) -> list[tuple[_Labels, float]]:
        seen = [prepare_input(planes, px) for planes, px in zip(images, diameters_px, strict=True)]
        return [(masks.cells, px) for masks, px in zip(segment_images(net, seen, section), diameters_px, strict=True)]

    found = {
        "one diameter for the data set": at([one_px] * count),
        "diameter_px = 0, by image": at_own_diameter(net, images, section, one_px),
        "the true diameters": at([float(px) for px in true_px]),
    }
    cells = sum(int(scene.cells.max()) for scene, _ in drawn)
    print(
        f"\nsizes, {count} images of {images[0].shape[1]} px, {cells} cells, medians {true_px.min():.0f} to "
        f"{true_px.max():.0f} px, {one_px:.0f} px for the data set; mean AP at IoU 0.5, 0.75, 0.9, pooled F1 at 0.5, "
        "root mean square error of the logarithm of the diameter:"
    )
    for method, results in found.items():
        triples = (
            (str(n), ours, scene.cells) for n, ((ours, _), (scene, _)) in enumerate(zip(results, drawn, strict=True))
        )
        table = summarise(score_images(triples))
        error = np.sqrt(np.mean(np.log(np.array([px for _, px in results]) / true_px) ** 2))
        aps = "  ".join(f"{value:.3f}" for value in table["mean_ap"])
        print(f"  {method:32s} {aps}   {table['pooled_f1'].iloc[0]:.3f}   {error:.2f}")
