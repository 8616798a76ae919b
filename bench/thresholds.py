"""Compare threshold methods on new data: ``uv run python -m bench.thresholds [REPEATS]``.

Simulates crop probabilities with known truth and the class counts of the Kaggle 2018 table
(`tests.support.simulation.probabilities`), and treats them as the pipeline does: a train image gets the maximum over
its cells from the one model that has not seen it, a test image the mean over all models of their maxima. Every method
is tuned on the train images; its thresholds are transferred to the test images and scored there. The tables show the
gain in macro F1 over the exact optimum per class without transfer, as the mean over REPEATS draws (40; fewer for large
data sets) with its standard error. All methods see the same draws. "Limited" is the last method with shares limited as
by default (`aggregate.limit_shares`); "flooded" counts the classes that it predicts on test at more than twice their
share of the train images, and the last worlds have eight classes that no model learned. They stay out of the mean over
all worlds.
"""

import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from aggregate.config import AggregateSection, Transfer
from aggregate.labels import Labels
from aggregate.thresholds.decision import decide, transfer_thresholds
from aggregate.thresholds.exact import best_thresholds
from aggregate.thresholds.limits import ShareLimits, fit_limits
from aggregate.thresholds.methods import fit_thresholds
from hpa.metrics import macro_f1
from hpa.splitting.folds import assign_folds
from hpa.vocabulary import HPA28
from tests.support.simulation.probabilities import K, draw_images, score_cells


@dataclass(frozen=True)
class World:
    """A simulated data set: its size and the quality of its models.

    Parameters
    ----------
    name
        Name in the tables.
    train, test, models
        Number of train images, test images and models.
    skill, own, shift
        As in `tests.support.simulation.probabilities`; shift applies to the test images.
    repeats
        Fraction of REPEATS to draw.
    unlearned
        Classes whose scores are noise.
    """

    name: str
    train: int
    test: int
    models: int
    skill: float
    own: float = 1.0
    shift: float = 0.0
    repeats: float = 1.0
    unlearned: tuple[int, ...] = ()


UNLEARNED: Final = (0, 2, 5, 7, 11, 17, 23, 25)
"""Eight classes, on 0.7 to 41 percent of the images."""

WORLDS: Final = (
    World("320 / 80, 2 models", 320, 80, 2, 0.55),
    World("320 / 80, 2 models that agree", 320, 80, 2, 0.55, own=0.5),
    World("320 / 300, 5 models", 320, 300, 5, 0.55),
    World("1,000 / 300, 5 models", 1000, 300, 5, 0.65),
    World("1,000 / 300, 5 models that agree", 1000, 300, 5, 0.65, own=0.5),
    World("1,000 / 300, 5 models, other frequencies", 1000, 300, 5, 0.65, shift=0.4),
    World("4,000 / 1,000, 5 models", 4000, 1000, 5, 0.7, repeats=0.5),
    World("31,072 / 11,702, 5 models", 31_072, 11_702, 5, 0.75, repeats=0.2),
    World("31,072 / 11,702, 5 models that agree", 31_072, 11_702, 5, 0.75, own=0.5, repeats=0.2),
    World("31,072 / 11,702, 5 models, other frequencies", 31_072, 11_702, 5, 0.75, shift=0.4, repeats=0.2),
    World("320 / 80, 2 models, 8 classes not learned", 320, 80, 2, 0.55, unlearned=UNLEARNED),
    World("1,000 / 300, 5 models, 8 classes not learned", 1000, 300, 5, 0.65, unlearned=UNLEARNED),
    World("4,000 / 1,000, 5 models, 8 classes not learned", 4000, 1000, 5, 0.7, repeats=0.5, unlearned=UNLEARNED),
)

METHODS: Final[dict[str, dict[str, Any]]] = {
    "fixed 0.5": {"thresholds": "fixed"},
    "global": {"thresholds": "global"},
    "per-class": {"thresholds": "per-class"},
    "prevalence": {"thresholds": "prevalence"},
    "repeated": {"thresholds": "repeated"},
    "soft-f1": {"thresholds": "soft-f1"},
    "cyclic": {"thresholds": "cyclic"},
    "shrunk to global, 10": {"thresholds": "shrunk", "shrink_to": "global", "shrinkage": 10.0},
    "shrunk to global, 30": {"thresholds": "shrunk", "shrink_to": "global", "shrinkage": 30.0},
    "shrunk to prevalence, 10": {"thresholds": "shrunk", "shrink_to": "prevalence", "shrinkage": 10.0},
    "shrunk to prevalence, 30": {"thresholds": "shrunk", "shrink_to": "prevalence", "shrinkage": 30.0},
    "the same, limited": {"limit_shares": True},
}
_DEFAULT: Final = "the same, limited"
_UNLIMITED: Final = "shrunk to prevalence, 30"
TRANSFERS: Final[tuple[Transfer, ...]] = ("none", "shares", "spread")
GROUP_SIZES: Final = (1, 5, 20, 50, 75, 100, 150)

Key = tuple[str, Transfer]


@dataclass(frozen=True)
class Draw:
    """One draw of a world.

    Parameters
    ----------
    targets, scores, groups
        Targets, out-of-fold scores and groups of the train images: shapes (N, K), (N, K), (N,).
    test_targets, by_model
        Targets of the test images, and their scores by each model: shapes (M, K), (F, M, K).
    """

    targets: NDArray[np.bool_]
    scores: NDArray[np.float32]
    groups: NDArray[np.int32]
    test_targets: NDArray[np.bool_]
    by_model: NDArray[np.float32]


def draw(world: World, seed: int) -> Draw:
    """Draw train and test images and their scores."""
    rng = np.random.default_rng([seed, world.train, world.models])
    biases = rng.normal(0, 0.3, (world.models, K))
    train = draw_images(world.train, world.skill, rng, unlearned=world.unlearned)
    folds = assign_folds(train.targets, train.groups, world.models, seed)
    out_of_fold = np.maximum.reduceat(score_cells(train, biases[folds], world.own, rng), train.first_rows, axis=0)
    test = draw_images(world.test, world.skill, rng, world.shift, world.unlearned)
    maxima = [np.maximum.reduceat(score_cells(test, b, world.own, rng), test.first_rows, axis=0) for b in biases]
    return Draw(train.targets, out_of_fold, train.groups, test.targets, np.stack(maxima))


def score_methods(one: Draw) -> dict[Key, float]:
    """Return the macro F1 on test of every method and transfer, and of thresholds tuned on the test images.

    The keys ``("flooded", ...)`` are numbers of classes.
    """
    mean = one.by_model.mean(axis=0)
    best = best_thresholds(one.test_targets, mean)
    found: dict[Key, float] = {("tuned on test", "none"): _score(one, best)}
    for name, settings in METHODS.items():
        values, shares, limits = _fit(one, AggregateSection.model_validate({"limit_shares": False} | settings))
        shares = one.targets.mean(axis=0) if name == "prevalence" else shares
        for transfer in TRANSFERS:
            transferred = transfer_thresholds(values, shares, one.by_model, transfer)
            transferred = transferred if transfer == "none" else limits.apply(transferred, mean)
            found[name, transfer] = _score(one, transferred)
        if name in (_UNLIMITED, _DEFAULT):
            found[f"flooded, {name}", "spread"] = _flooded(one, transferred)
    return found


def _fit(one: Draw, section: AggregateSection) -> tuple[NDArray[np.float64], NDArray[np.float64], ShareLimits]:
    """Return thresholds, the shares of the train images that they predict, and the limits of these shares."""
    labels = Labels.all_known(one.targets, one.groups)
    values, limits = fit_thresholds(labels, one.scores, section), ShareLimits.none(K)
    if section.limits_shares:
        limits, values = fit_limits(values, labels, one.scores)
    return values, (one.scores > values).mean(axis=0), limits


def _flooded(one: Draw, values: NDArray[np.float64]) -> float:
    """Return the number of classes predicted at more than twice their share of train, and on more than two images."""
    predicted = (one.by_model.mean(axis=0) > values).sum(axis=0)
    wanted = one.targets.mean(axis=0) * one.by_model.shape[1]
    return float(np.count_nonzero(predicted > np.maximum(2 * wanted, 2)))


def score_small_groups(one: Draw) -> dict[str, float]:
    """Return the macro F1 on test when images arrive in small groups and thresholds are transferred to each group."""
    values, shares, _ = _fit(one, AggregateSection())  # a limit needs many images, so it holds on train here
    mean = one.by_model.mean(axis=0)
    found = {"all images at once": _score(one, transfer_thresholds(values, shares, one.by_model, "spread"))}
    half = len(mean) // 2
    stored = transfer_thresholds(values, shares, one.by_model[:, :half], "spread")
    found["transferred to other images"] = _score(one, stored)
    found["not transferred"] = _score(one, values)
    for size in GROUP_SIZES:
        predictions = np.empty(mean.shape, dtype=bool)
        for start in range(0, len(mean), size):
            rows = slice(start, start + size)
            transferred = transfer_thresholds(values, shares, one.by_model[:, rows], "spread")
            predictions[rows] = decide(mean[rows], transferred, "argmax", HPA28)
        found[f"in groups of {size}"] = macro_f1(one.test_targets, predictions)
    return found


def _score(one: Draw, values: NDArray[np.float64]) -> float:
    return macro_f1(one.test_targets, decide(one.by_model.mean(axis=0), values, "argmax", HPA28))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    repeats = int(given[0]) if given else 40
    worlds = [world for world in WORLDS if repeats > 1 or world.train <= 1000]
    totals: dict[Key, list[float]] = defaultdict(list)
    for world in worlds:
        found: dict[Key, list[float]] = defaultdict(list)
        for seed in range(max(1, round(repeats * world.repeats))):
            for key, value in score_methods(draw(world, seed)).items():
                found[key].append(value)
        _print_world(world, found)
        for key in () if world.unlearned else found:
            totals[key].append(float(np.mean(found[key]) - np.mean(found["per-class", "none"])))
    learned = len(totals[_DEFAULT, "spread"])
    print(f"\nmean over the {learned} data sets whose classes are learned, of the gain over per-class without transfer")
    for name in METHODS:
        print(f"  {name:26s}", *(f"{transfer} {np.mean(totals[name, transfer]):+.4f}  " for transfer in TRANSFERS))
    print("\nthe default, on images that arrive in small groups (1,000 / 300, 5 models)")
    groups = [score_small_groups(draw(WORLDS[3], seed)) for seed in range(repeats)]
    for name in groups[0]:
        print(f"  {name:28s} {np.mean([one[name] for one in groups]):.4f}")


def _print_world(world: World, found: dict[Key, list[float]]) -> None:
    base = np.array(found["per-class", "none"])
    best = np.mean(found["tuned on test", "none"])
    print(f"\n{world.name} ({len(base)} draws): per-class without transfer {base.mean():.4f}, tuned on test {best:.4f}")
    for name in METHODS:
        cells = []
        for transfer in TRANSFERS:
            gain = np.array(found[name, transfer]) - base
            cells.append(f"{transfer} {gain.mean():+.4f} ± {gain.std() / np.sqrt(len(gain)):.4f}")
        print(f"  {name:26s}", "   ".join(cells), flush=True)
    gain = np.array(found[_DEFAULT, "spread"]) - np.array(found[_UNLIMITED, "spread"])
    floods = [np.mean(found[f"flooded, {name}", "spread"]) for name in (_UNLIMITED, _DEFAULT)]
    print(
        f"  limiting shares: macro F1 {np.mean(found[_DEFAULT, 'spread']):.4f},"
        f" {gain.mean():+.4f} ± {gain.std() / np.sqrt(len(gain)):.4f};"
        f" flooded classes {floods[0]:.1f} -> {floods[1]:.1f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
