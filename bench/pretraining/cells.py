"""Drawn cells in memory, features of a backbone on them, trainings, and linear probes."""

import hashlib
import json
import shutil
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import StandardScaler

from classify.config import ClassifySection
from classify.data.crops import CropArrays, CropLabels
from classify.inference.evaluate import CropOutputs, predict_batches, sigmoid
from classify.network.model import Network
from classify.network.pretrained import Pretrained, Start
from classify.training.fit import fit, remove_resume_files
from crops.synthesize import read_labels, synthesize_crops
from hpa.metrics import average_precision
from hpa.vocabulary import HPA28

DEVICE: Final = torch.device("cpu")
_FOLD: Final = 0  # held out of a training: the last image, since there has to be one
_STRENGTHS: Final = (0.001, 0.01, 0.1)


@dataclass(frozen=True)
class Cells:
    """Crops with their labels.

    Parameters
    ----------
    source
        The crops.
    targets
        True classes of each cell, shape (N, K), bool.
    inherited
        Classes of the image of each cell, shape (N, K), bool.
    images, fields
        Numbers of the image, 0 to n - 1 in the order in which they were drawn, and of the field of view, shape (N,),
        int64.
    """

    source: CropArrays
    targets: NDArray[np.bool_]
    inherited: NDArray[np.bool_]
    images: NDArray[np.int64]
    fields: NDArray[np.int64]

    def first_images(self, n: int) -> "Cells":
        """Return the cells of the first `n` images."""
        rows = self.images < n
        source = CropArrays(self.source.crops[rows], self.source.own[rows])
        return Cells(source, self.targets[rows], self.inherited[rows], self.images[rows], self.fields[rows])


def drawn_cells(
    root: Path, cells: int, seed: int, style: str, *, size_px: int = 64, patterns: Collection[int] = range(len(HPA28))
) -> Cells:
    """Draw cells into a store below `root`, or read them if they are there."""
    key = json.dumps([cells, seed, style, size_px, sorted(patterns)])
    folder = root / f"cells-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    synthesize_crops(folder, cells, seed=seed, size_px=size_px, patterns=patterns, style=style)
    labels = read_labels(folder)
    shards = sorted(folder.glob("shard-?????.npy"))
    crops = np.concatenate([np.load(path) for path in shards])
    bits = np.concatenate([np.load(path.with_suffix(".mask.npy")) for path in shards])
    own = np.unpackbits(bits, axis=1, count=size_px * size_px).reshape(-1, size_px, size_px).astype(bool)
    return Cells(
        CropArrays(crops, own),
        labels[list(HPA28.classes)].to_numpy(bool),
        HPA28.multi_hot(HPA28.parse(text) for text in labels["target"]),
        labels["image_id"].factorize()[0].astype(np.int64),
        labels["geometry"].factorize()[0].astype(np.int64),
    )


def network_of(weights: Pretrained) -> tuple[Network, ClassifySection]:
    """Return a network with pretrained weights and heads."""
    described = weights.description
    section = ClassifySection(backbone=described.backbone, precision="auto")
    network = Network(section, len(described.channels), len(described.classes), described.mean, described.std)
    network.load_state_dict(weights.state_dict, strict=False)
    return network.eval(), section


def outputs(network: Network, section: ClassifySection, source: CropArrays) -> tuple[NDArray[np.float32], ...]:
    """Return the features (N, F) and probabilities (N, K) of crops."""
    found: list[CropOutputs] = list(predict_batches(network, source, np.arange(len(source)), section, DEVICE))
    return np.concatenate([out.features for out in found]), np.concatenate([sigmoid(out.logits) for out in found])


def train_network(
    cells: Cells,
    targets: NDArray[np.bool_],
    section: ClassifySection,
    seconds: float,
    folder: Path,
    start: Start | None = None,
) -> tuple[Network, float]:
    """Train a network for about some seconds of processor time, and return it with the seconds it took.

    It starts from random weights unless others are given. The number of epochs follows from the time of a first one.
    """
    n = len(cells.source)
    labels = CropLabels(
        targets,
        known=np.ones_like(targets),
        images=cells.images,
        folds=np.where(cells.images == cells.images.max(), _FOLD, _FOLD + 1),
        is_test=np.zeros(n, dtype=bool),
        fallback=np.zeros(n, dtype=bool),
        image_ids=cells.images.astype(str).astype(object),
        cell_labels=np.arange(n),
        sources=np.full(n, "atlas", dtype=object),
        antibodies=cells.images,
        completeness=np.ones(n, dtype=np.float32),
    )
    crops = labels.fold_crops(cells.source, _FOLD)

    def trained(epochs: int, name: str) -> tuple[Network, float]:
        place = folder / name
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        started = time.process_time()
        found = fit(crops, section.model_copy(update={"epochs": epochs}), 0, _FOLD, place, DEVICE, start=start)
        taken = time.process_time() - started
        network = Network(section, cells.source.crops.shape[1], targets.shape[1], *_levels(found))
        network.load_state_dict(found.state_dict)
        remove_resume_files(place)
        return network.eval(), taken

    first = trained(1, "first")
    epochs = round(seconds / first[1])
    return trained(epochs, "whole") if epochs > 1 else first


def _levels(found: object) -> tuple[list[float], list[float]]:
    statistics = found.statistics  # type: ignore[attr-defined]
    return statistics.mean, statistics.std


def probe(
    features: NDArray[np.float32],
    targets: NDArray[np.bool_],
    groups: NDArray[np.int64],
    unseen: NDArray[np.float32],
) -> NDArray[np.float64]:
    """Return the scores that logistic regressions on standardised features give to unseen rows, shape (M, K).

    The strength of the penalty is the one with the highest mean average precision over three folds of `groups` (two
    where there are two).
    """
    scaler = StandardScaler().fit(features)
    x, new = scaler.transform(features), scaler.transform(unseen)
    folds = list(GroupKFold(min(3, len(np.unique(groups)))).split(x, groups=groups))
    held = {strength: np.zeros(targets.shape) for strength in _STRENGTHS}
    for strength, scores in held.items():
        for train, test in folds:
            scores[test] = _regressions(x[train], targets[train], x[test], strength)
    best = max(_STRENGTHS, key=lambda strength: mean_ap(targets, held[strength]))
    return _regressions(x, targets, new, best)


def _regressions(
    x: NDArray[np.float32], targets: NDArray[np.bool_], new: NDArray[np.float32], strength: float
) -> NDArray[np.float64]:
    scores = np.zeros((len(new), targets.shape[1]))
    for label, positive in enumerate(targets.T):
        if 0 < positive.sum() < len(positive):
            scores[:, label] = LogisticRegression(C=strength, max_iter=300).fit(x, positive).decision_function(new)
    return scores


def mean_ap(targets: NDArray[np.bool_], scores: NDArray[np.floating[Any]]) -> float:
    """Return the mean average precision over the classes that occur."""
    found = [average_precision(t, s) for t, s in zip(targets.T, scores.T, strict=True) if t.any()]
    return float(np.mean(found)) if found else float("nan")


def by_image(values: NDArray[np.floating[Any]], images: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the maximum over the cells of each image, shape (n, K)."""
    pooled = np.full((images.max() + 1, values.shape[1]), -np.inf)
    np.maximum.at(pooled, images, values)
    return pooled


def of_images(inherited: NDArray[np.bool_], images: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return the classes of each image, shape (n, K)."""
    found = np.zeros((images.max() + 1, inherited.shape[1]), dtype=bool)
    found[images] = inherited
    return found
