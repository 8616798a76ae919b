"""Score the segmentation of real images over a range of diameters, because few cells decide little at a single one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu, threshold_triangle
from skimage.segmentation import watershed

from bench.segmentation.sizes import at_own_diameter, data_set_diameter_px
from hpa.pixels import Pixels, read_label_image, read_plane
from segment.config import SegmentSection
from segment.inference.predict import segment_images
from segment.inference.preprocess import channels_of, prepare_input
from segment.network.compact import CompactNetwork
from segment.score import match_cells
from segment.watershed import watershed_cells
from tests.support.real_images import real_data

DIAMETERS_PX: Final = tuple(range(80, 121, 4))
FAR_DIAMETERS_PX: Final = (50, 60, 70, 130, 150, 170, 190)
"""Diameters that nobody would choose for these cells, whose median diameters are 82 to 126 px."""

TURNS: Final = 8
"""An image tells as much turned or mirrored, but a network reads it a little differently."""

_MIN_NUCLEUS_PX: Final = 200  # in a field of 512 px; smaller objects are debris
_IOUS: Final = (0.5, 0.75)
_RESAMPLES: Final = 2000

_Channels = Mapping[str, Pixels]
_Labels = NDArray[np.integer[Any]]


def plain_watershed(planes: NDArray[Any]) -> NDArray[np.int32]:
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


@dataclass(frozen=True)
class Outcomes:
    """What a method made of the reference cells of one image, at one IoU threshold.

    Parameters
    ----------
    found
        Shape (n + 1,), 1 for each of the n reference cells that is matched, otherwise 0; last the background, 0.
    false
        Shape (n + 1,), number of predicted cells without a match, at the reference cell (or the background, last) with
        which they share most pixels.
    """

    found: NDArray[np.float64]
    false: NDArray[np.float64]


def outcomes(predicted: _Labels, truth: _Labels, iou: float) -> Outcomes:
    """Attribute the matches and the false positives of an image to its reference cells."""
    cells = np.unique(truth[truth > 0])
    matched = match_cells(predicted, truth, iou)
    found = np.append(np.isin(cells, matched[:, 1]), False).astype(np.float64)
    false = np.zeros(len(cells) + 1)
    for label in np.setdiff1d(predicted[predicted > 0], matched[:, 0]):
        below = truth[predicted == label]
        owner = np.bincount(below).argmax()
        false[np.searchsorted(cells, owner) if owner else -1] += 1
    return Outcomes(found, false)


def score(images: Sequence[Outcomes], weights: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    """Return mean AP and pooled F1 of images whose reference cells count `weights` times."""
    tp = np.array([weight @ one.found for one, weight in zip(images, weights, strict=True)])
    fp = np.array([weight @ one.false for one, weight in zip(images, weights, strict=True)])
    cells = np.array([weight[:-1].sum() for weight in weights])
    return float(np.mean(tp / np.maximum(cells + fp, 1))), float(2 * tp.sum() / max((tp + cells + fp).sum(), 1))


class Readings:
    """The outcomes of a method at several diameters.

    Parameters
    ----------
    masks
        For each diameter, the predicted label image of each reference.
    references
        The reference label images.
    """

    def __init__(self, masks: Sequence[Sequence[_Labels]], references: Sequence[_Labels]) -> None:
        self._outcomes = {
            iou: [[outcomes(p, t, iou) for p, t in zip(one, references, strict=True)] for one in masks] for iou in _IOUS
        }
        self._once = [np.ones(len(one.found)) for one in self._outcomes[0.5][0]]

    def scores(self, weights: Sequence[NDArray[np.float64]] | None = None) -> NDArray[np.float64]:
        """Return mean AP@0.5, mean AP@0.75 and pooled F1@0.5 of each diameter, shape (n, 3)."""
        weights = self._once if weights is None else weights
        half, strict = ([score(one, weights) for one in self._outcomes[iou]] for iou in _IOUS)
        return np.array([(a, b, f1) for (a, f1), (b, _) in zip(half, strict, strict=True)])

    def ahead_of(self, other: "Readings", seed: int = 0) -> NDArray[np.float64]:
        """Return the 2.5th and 97.5th percentile of the difference of the means over diameters, shape (2, 3).

        The same reference cells are resampled within their images for both methods; false positives go with the cell
        that they overlap, or with the background.
        """
        rng = np.random.default_rng(seed)
        differences = []
        for _ in range(_RESAMPLES):
            weights = [np.bincount(rng.integers(len(one), size=len(one)), minlength=len(one)) for one in self._once]
            drawn = [weight.astype(np.float64) for weight in weights]
            differences.append(self.scores(drawn).mean(axis=0) - other.scores(drawn).mean(axis=0))
        interval: NDArray[np.float64] = np.percentile(differences, [2.5, 97.5], axis=0)
        return interval


def real(net: CompactNetwork, diameters_px: tuple[int, ...]) -> None:
    """Print the scores of each method on real images with masks, if there are any."""
    root = real_data()
    references = {
        path.stem.removesuffix("_mask"): read_label_image(path)
        for path in sorted((root / "masks512").glob("*_mask.png"))
    }
    if not references:
        print(f"\nreal: skipped, expected masks in {root / 'masks512'}, found none")
        return
    folder = root / "images512"
    names = sorted(path.name.removesuffix("_blue.png") for path in folder.glob("*_blue.png"))
    images: dict[str, _Channels] = {
        name: {color: read_plane(folder / f"{name}_{color}.png") for color in ("yellow", "blue", "red")}
        for name in names
    }
    truths = list(references.values())
    cells = sum(len(np.unique(truth)) - 1 for truth in truths)
    print(
        f"\nreal, {len(truths)} images, {cells} cells; AP@0.5, AP@0.75, F1@0.5, means over {len(diameters_px)} ", end=""
    )
    print("diameters; standard deviation of AP@0.5 over them; difference to the plain watershed (95%):")
    baseline = Readings([[plain_watershed(_stack(images[name], ("yellow", "blue"))) for name in references]], truths)
    _print("plain watershed", baseline.scores())

    def tuned(diameter: float) -> list[_Labels]:
        return [
            watershed_cells(prepare_input(_stack(images[name], ("yellow", "blue")), diameter)) for name in references
        ]

    _compare("tuned watershed", tuned, diameters_px, truths, baseline)
    for inputs in (("yellow", "blue"), ("yellow|red", "blue")):
        section = SegmentSection(channels=inputs)

        def found(diameter: float, turn: int = 0, section: SegmentSection = section) -> list[_Labels]:
            planes = [_turned(_stack(images[name], section.channels), turn) for name in references]
            prepared = [prepare_input(image, diameter, section.channels) for image in planes]
            return [_turned_back(masks.cells, turn) for masks in segment_images(net, prepared, section)]

        sample = [_stack(image, inputs) for image in images.values()]
        first_px = data_set_diameter_px(sample, section)

        _compare(" ".join(inputs), found, diameters_px, truths, baseline)
        turns = [Readings([found(diameter, turn) for diameter in diameters_px], truths) for turn in range(TURNS)]
        _print_turns(np.stack([readings.scores() for readings in turns]))
        own = [
            masks
            for masks, _ in at_own_diameter(net, [_stack(images[n], inputs) for n in references], section, first_px)
        ]
        _print("  diameter_px = 0", Readings([own], truths).scores())
        _print_each(FAR_DIAMETERS_PX, Readings([found(diameter) for diameter in FAR_DIAMETERS_PX], truths).scores())


def _compare(
    name: str,
    segment: Callable[[float], list[_Labels]],
    diameters_px: Sequence[float],
    truths: Sequence[_Labels],
    baseline: Readings,
) -> None:
    readings = Readings([segment(diameter) for diameter in diameters_px], truths)
    _print(name, readings.scores(), readings.ahead_of(baseline), readings.scores() - baseline.scores())
    _print_each(diameters_px, readings.scores())


def _print_turns(scores: NDArray[np.float64]) -> None:
    """Print the means over turns and diameters, scores of shape (turns, diameters, 3), and their range over turns."""
    means = scores.mean(axis=1)
    ranges = zip(means.mean(axis=0), means.min(axis=0), means.max(axis=0), strict=True)
    line = "  ".join(f"{mean:.3f} ({low:.3f} to {high:.3f})" for mean, low, high in ranges)
    print(f"  turned and mirrored  {line}  +- {scores[..., 0].std(axis=1).mean():.3f}", flush=True)


def _print_each(diameters_px: Sequence[float], scores: NDArray[np.float64]) -> None:
    for diameter, row in zip(diameters_px, scores, strict=True):
        print(f"    {diameter:3.0f} px  " + "  ".join(f"{value:.3f}" for value in row), flush=True)


def _print(
    name: str,
    scores: NDArray[np.float64],
    interval: NDArray[np.float64] | None = None,
    difference: NDArray[np.float64] | None = None,
) -> None:
    line = f"  {name:18s} " + "  ".join(f"{value:.3f}" for value in scores.mean(axis=0))
    if interval is not None and difference is not None:
        line += f"  +- {scores[:, 0].std():.3f}   "
        line += "  ".join(
            f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"
            for mean, low, high in zip(difference.mean(axis=0), *interval, strict=True)
        )
    print(line, flush=True)


def _turned(array: NDArray[Any], turn: int) -> NDArray[Any]:
    """Return one of the eight ways in which images may lie; 0 leaves them as they are."""
    quarters, mirrored = divmod(turn, 2)
    return np.ascontiguousarray(np.rot90(array[..., ::-1] if mirrored else array, quarters, axes=(-2, -1)))


def _turned_back(array: NDArray[Any], turn: int) -> NDArray[Any]:
    quarters, mirrored = divmod(turn, 2)
    back = np.rot90(array, -quarters, axes=(-2, -1))
    return np.ascontiguousarray(back[..., ::-1] if mirrored else back)


def _stack(channels: _Channels, inputs: Sequence[str]) -> NDArray[Any]:
    return np.stack([channels[channel] for channel in channels_of(inputs)])
