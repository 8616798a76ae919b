"""Add one ingredient at a time to the recommended recipe, for `bench.classify`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bench.classification.runs import FOLD, Job, Ran, image_probabilities, run, show
from bench.classification.scores import Truth, cell_scores, score
from bench.classification.world import FULL, Size, World
from classify.config import ClassifySection
from classify.phases import Phase
from classify.probabilities import class_columns
from hpa.metrics import mean_average_precision
from hpa.vocabulary import HPA28

_SEEDS: Final = (0, 1, 2)
_RESAMPLES: Final = 300

_SOFT_F1: Final = [{"name": "focal"}, {"name": "soft-f1-macro", "weight": 0.5}]
_LOG_SOFT_F1: Final = [{"name": "focal"}, {"name": "log-soft-f1-macro", "weight": 0.5}]
_LOVASZ: Final = [{"name": "focal"}, {"name": "lovasz", "weight": 0.5}]
_HARD: Final = [{"name": "focal"}, {"name": "hard-bce", "weight": 0.5}]
_POOLED: Final = "pooled by log-sum-exp"
_OF_TINY: Final = ("heads alone, on frozen features", "bags", _POOLED)
_TRIPLETS: Final = {"embedding_dim": 64}
_ARCFACE: Final = {"embedding_dim": 64, "triplet_weight": 0.0, "arcface_weight": 0.1}
_BAGS: Final = {
    **{"pooling": "log-sum-exp", "bag_size": 4, "epochs": 12},  # as many crops as three epochs of single crops
    "phases": [{"epochs": 4, "trainable": ["new"]}, {"schedule": "continue"}],
}

INGREDIENTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "from nothing": {"pretrained": "none", "phases": []},
    "heads alone, on frozen features": {"trainable": "heads", "learning_rate": 0.01, "epochs": 20, "phases": []},
    "pretrained heads, held": {"heads": "pretrained"},
    "one phase": {"phases": []},
    "binary cross-entropy": {"loss": "bce"},
    "asymmetric loss": {"loss": "asymmetric"},
    "focal + soft F1": {"loss": _SOFT_F1},
    "focal - log soft F1": {"loss": _LOG_SOFT_F1},
    "focal + Lovasz": {"loss": _LOVASZ},
    "focal + hard examples": {"loss": _HARD},
    "inverse class weights": {"class_weights": "inverse"},
    "effective-number weights": {"class_weights": "effective"},
    "label smoothing 0.05": {"label_smoothing": 0.05},
    "sampling by class": {"sampling": "classes"},
    "weight by completeness": {"completeness_power": 1.0},
    "triplets": _TRIPLETS,
    "ArcFace over antibodies": _ARCFACE,
    "bags": _BAGS | {"objective": "bag"},
    "bags and cells": _BAGS | {"objective": "dual"},
    "mixup 0.2": {"mixup": 0.2},
    "cutmix 1": {"cutmix": 1.0},
    "augmentation: none": {"augment": "none"},
    "augmentation: strong": {"augment": "strong"},
    "rates falling by stage": {"layer_rates": 0.5},
    "average of weights": {"ema_decay": 0.98},
    "features of three stages": {"feature_stages": (2, 3, 4)},
    "average and maximum features": {"features": "both"},
    "surroundings black": {"outside_cell": "zero"},
    "eight test views": {"test_views": "mean"},
    _POOLED: {},
}
"""What is added, by the keys of ``[classify]`` that say it; the last is `pooling` of ``[aggregate]``."""


@dataclass(frozen=True)
class _Tested:
    """Test images, or test cells, as the models of the seeds score them.

    Parameters
    ----------
    targets
        Shape (N, K).
    groups
        Antibody of each, shape (N,).
    probabilities
        Shape (S, N, K), one model per seed.
    """

    targets: NDArray[np.bool_]
    groups: NDArray[np.object_]
    probabilities: NDArray[np.float32]

    def mean_ap(self, rows: NDArray[np.int64] | slice) -> NDArray[np.float64]:
        """Return the mean average precision of the models on some rows, shape (S,)."""
        return np.array([mean_average_precision(self.targets[rows], p[rows]) for p in self.probabilities])

    def resampled(self) -> NDArray[np.float64]:
        """Return the mean average precision of each model over resampled antibodies, shape (R, S)."""
        rng = np.random.default_rng(0)
        numbers = np.unique(self.groups, return_inverse=True)[1]
        rows_of = [np.flatnonzero(numbers == number) for number in range(numbers.max() + 1)]
        n = len(rows_of)
        drawn = [np.concatenate([rows_of[i] for i in rng.integers(0, n, n)]) for _ in range(_RESAMPLES)]
        return np.stack([self.mean_ap(rows) for rows in drawn])


@dataclass(frozen=True)
class _Measured:
    """What an ingredient reaches: test images, test cells, and the processor time of one training."""

    images: _Tested
    cells: _Tested
    seconds: float


def _gain(system: NDArray[np.float64], reference: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95% interval of the mean gain over seeds, from resampled antibodies and seeds; shapes (R, S)."""
    n, n_seeds = system.shape
    seeds = np.random.default_rng(1).integers(0, n_seeds, (n, n_seeds))
    gains = np.take_along_axis(system - reference, seeds, axis=1).mean(axis=1)
    low, high = np.quantile(gains, [0.025, 0.975])
    return float(low), float(high)


def _run(world: World, base: ClassifySection, name: str, seed: int, *, all_folds: bool = False) -> tuple[Job, Ran]:
    """Train and score the test images with one fold held out, or train images too with each."""
    keys = INGREDIENTS.get(name, {})
    section = ClassifySection.model_validate(base.model_dump() | dict(keys))
    cells = (world.work("cells", world.size.crop_px), "cells")
    own = name if keys else "none"  # the ingredients without keys of their own need no training of their own
    job = Job("ingredient-" + re.sub(r"\W+", "-", own.lower()), section, cells, cells, seed)
    ran = run(job) if all_folds else run(job, folds=(FOLD,), test_only=True)
    if name == _POOLED:
        ran = replace(ran, pooling=replace(ran.pooling, pooling="log-sum-exp", sharpness=10.0))
    return job, ran


def _measure(world: World, truth: Truth, base: ClassifySection, name: str) -> _Measured:
    """Train the models of all seeds with one fold held out, and score the test images."""
    images, cells, seconds = [], [], []
    for seed in _SEEDS:
        job, ran = _run(world, base, name, seed)
        seconds.append(ran.seconds)
        pooled = image_probabilities(ran)
        images.append(pooled[class_columns(HPA28)].to_numpy(np.float32))
        cells.append(cell_scores(truth, job.scored_on[0], ran.table, list(pooled["image_id"])))
    ids, antibodies = pooled["image_id"], truth.images["antibody"]
    of_cells = np.stack([each.probabilities for each in cells])
    return _Measured(
        _Tested(truth.targets(ids), antibodies.loc[ids].to_numpy(object), np.stack(images)),
        _Tested(cells[0].targets, antibodies.loc[cells[0].image_ids].to_numpy(object), of_cells),
        float(np.mean(seconds)),
    )


def ingredients(size: Size) -> None:
    """Add each ingredient alone to the recommended recipe; macro F1 where an interval of the gain is without 0."""
    world = World.of(size)
    truth = Truth(world)
    base = ClassifySection(
        backbone=size.backbone,
        epochs=3,
        phases=(Phase(epochs=1, trainable=("new",)), Phase(schedule="continue")),
        batch_size=32,
        validate_every=1000,
    )
    resampled: dict[str, NDArray[np.float64]] = {}
    rows: list[dict[str, object]] = []
    for name in ["", *(INGREDIENTS if size == FULL else _OF_TINY)]:
        found = _measure(world, truth, base, name)
        row: dict[str, object] = {"ingredient": name or "none", "seconds": found.seconds}
        apart = not name
        for kind, tested in (("image", found.images), ("cell", found.cells)):
            row[f"{kind}_mean_ap"] = tested.mean_ap(slice(None)).mean()
            own = tested.resampled()
            low, high = _gain(own, resampled.setdefault(kind, own))
            row |= {f"{kind}_gain_low": low, f"{kind}_gain_high": high}
            apart |= low > 0 or high < 0
        if apart:
            job, ran = _run(world, base, name, _SEEDS[0], all_folds=True)
            scored = score(truth, job.scored_on[0], image_probabilities(ran), ran.table)
            row |= {"image_macro_f1": scored.score.image_macro_f1, "cell_macro_f1": scored.score.cell_macro_f1}
        rows.append(row)
        show(rows, world.root / "ingredients.json")
