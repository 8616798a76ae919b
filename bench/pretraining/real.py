"""How well networks that have only seen drawn cells rank real images of the protein."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from bench.classification.real_images import real_proteins
from bench.pretraining.cells import Cells, drawn_cells, outputs, probe, train_network
from bench.pretraining.texture import texture_features
from bench.realism import steered
from classify.config import ClassifySection
from classify.data.crops import CropArrays
from classify.network.model import Network
from hpa.channels import CHANNELS
from hpa.metrics import roc_auc
from hpa.vocabulary import HPA28

GREEN: Final = CHANNELS.index("green")
WINDOW_PX: Final = 128
"""Side of a window in px of a frame of 512 px, somewhat more than a typical cell's."""

_CROP_PX: Final = 64
_MIN_POSITIVES: Final = 3
_RESAMPLES: Final = 2_000

Scores = NDArray[np.float64]


def windows(paths: list[Path]) -> CropArrays:
    """Cut overlapping windows, 49 per image, with the protein alone."""
    steps = range(0, 512 - WINDOW_PX + 1, WINDOW_PX // 2)
    crops = []
    for path in paths:
        plane = np.asarray(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE))
        plane = plane if plane.shape == (512, 512) else cv2.resize(plane, (512, 512), interpolation=cv2.INTER_AREA)
        for row in steps:
            for column in steps:
                window = plane[row : row + WINDOW_PX, column : column + WINDOW_PX]
                crop = np.zeros((len(CHANNELS), _CROP_PX, _CROP_PX), np.uint8)
                crop[GREEN] = cv2.resize(window, (_CROP_PX, _CROP_PX), interpolation=cv2.INTER_AREA)
                crops.append(crop)
    return CropArrays(np.stack(crops), np.ones((len(crops), _CROP_PX, _CROP_PX), dtype=bool))


def green_only(cells: Cells) -> Cells:
    """Return cells without their reference channels."""
    crops = np.zeros_like(cells.source.crops)
    crops[:, GREEN] = cells.source.crops[:, GREEN]
    source = CropArrays(crops, cells.source.own)
    return Cells(source, cells.targets, cells.inherited, cells.images, cells.fields)


def real(network: Network, section: ClassifySection, tiny: bool, root: Path, seed: int) -> None:
    """Print the mean AUC on real images, all, of the half that steers the drawing, and of the other half."""
    found = real_proteins()
    if found is None:
        return
    folder, texts = found
    paths = [folder / f"{image_id}_green.png" for image_id in texts.index]
    targets = HPA28.multi_hot(HPA28.parse(text) for text in texts)
    targets = targets & np.isin(np.arange(targets.shape[1]), _counted(targets))
    cut = windows(paths)
    train = green_only(drawn_cells(root, 200 if tiny else 5_600, seed, "atlas", size_px=_CROP_PX))
    fresh, seconds = train_network(train, train.inherited, section, 1.0 if tiny else 300.0, root / "nothing-real")
    print(f"from nothing: {seconds:.0f} s on {len(train.images):,} drawn cells with inherited labels")
    systems: dict[str, Scores] = {}
    features, probabilities = outputs(network, section, cut)
    own = outputs(network, section, train.source)[0]
    systems["pretrained heads"] = _maximum(probabilities, len(paths))
    heads = probe(own, train.inherited, train.fields, features)
    systems["new heads on frozen features"] = _maximum(heads, len(paths))
    features_of_fresh, probabilities = outputs(fresh, section, cut)
    systems["from nothing"] = _maximum(probabilities, len(paths))
    systems["probe of real images, frozen features"] = _leave_one_out(features, targets)
    systems["probe of real images, features from nothing"] = _leave_one_out(features_of_fresh, targets)
    texture = texture_features(cut.crops, GREEN)
    systems["probe of real images, texture"] = _leave_one_out(texture, targets)
    steering = np.array([steered(path) for path in paths])
    for name, scores in systems.items():
        every = _interval(partial(_mean_auc_of, targets, scores), len(paths))
        halves = [mean_auc(targets[half], scores[half]) for half in (steering, ~steering)]
        print(f"{name}: mean AUC {every}, steering half {halves[0]:.3f}, other half {halves[1]:.3f}")
    for name, reference in (
        ("pretrained heads", "from nothing"),
        ("new heads on frozen features", "from nothing"),
        ("probe of real images, frozen features", "probe of real images, features from nothing"),
        ("probe of real images, frozen features", "probe of real images, texture"),
    ):
        gain = _interval(partial(_gain, targets, systems[name], systems[reference]), len(paths))
        print(f"{name} minus {reference}: {gain}")
    for label in _counted(targets):
        values = ", ".join(f"{name} {roc_auc(targets[:, label], s[:, label]):.2f}" for name, s in systems.items())
        print(f"{HPA28.classes[label]} ({targets[:, label].sum()}): {values}")


def mean_auc(targets: NDArray[np.bool_], scores: Scores) -> float:
    """Return the mean AUC over the classes with positives and negatives."""
    found = [roc_auc(t, s) for t, s in zip(targets.T, scores.T, strict=True) if t.any() and not t.all()]
    return float(np.mean(found)) if found else float("nan")


def _mean_auc_of(targets: NDArray[np.bool_], scores: Scores, rows: NDArray[np.int64]) -> float:
    return mean_auc(targets[rows], scores[rows])


def _gain(targets: NDArray[np.bool_], scores: Scores, reference: Scores, rows: NDArray[np.int64]) -> float:
    return _mean_auc_of(targets, scores, rows) - _mean_auc_of(targets, reference, rows)


def _counted(targets: NDArray[np.bool_]) -> list[int]:
    return [label for label, positive in enumerate(targets.T) if positive.sum() >= _MIN_POSITIVES]


def _maximum(values: NDArray[np.floating[Any]], images: int) -> Scores:
    return np.asarray(values.reshape(images, -1, values.shape[1]).max(axis=1), dtype=np.float64)


def _leave_one_out(features: NDArray[np.float32], targets: NDArray[np.bool_], strength: float = 0.01) -> Scores:
    """Score every image by regressions on the others; an image has the mean and the maximum over its windows."""
    of_image = features.reshape(len(targets), -1, features.shape[1])
    x = np.concatenate([of_image.mean(axis=1), of_image.max(axis=1)], axis=1)
    scores = np.zeros(targets.shape)
    for one in range(len(x)):
        rest = np.arange(len(x)) != one
        scaler = StandardScaler().fit(x[rest])
        train, new = scaler.transform(x[rest]), scaler.transform(x[one : one + 1])
        for label in _counted(targets):
            fitted = LogisticRegression(C=strength, class_weight="balanced", max_iter=300)
            scores[one, label] = fitted.fit(train, targets[rest, label]).decision_function(new)[0]
    return scores


def _interval(value: Callable[[NDArray[np.int64]], float], n: int) -> str:
    draw = np.random.default_rng(0)
    values = [value(draw.integers(0, n, n)) for _ in range(_RESAMPLES)]
    low, high = np.nanpercentile(values, (2.5, 97.5))
    return f"{value(np.arange(n)):.3f} ({low:.3f} to {high:.3f})"
