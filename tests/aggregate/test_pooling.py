import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import pytest

from aggregate.config import KINDS, AggregateSection, Formula
from aggregate.pooling.formulas import pool_bags
from aggregate.pooling.sources import CropQuality, pool_parts
from classify.probabilities import Part

# Each formula for one class of one bag, in plain Python, with top_k = 2, quantile = 0.75, sharpness = 5.
PLAIN: dict[Formula, Callable[[Sequence[float]], float]] = {
    "max": max,
    "mean": lambda p: sum(p) / len(p),
    "top-k": lambda p: sum(sorted(p)[-2:]) / len(sorted(p)[-2:]),
    "quantile": lambda p: float(np.percentile(p, 75)),
    "log-sum-exp": lambda p: math.log(sum(math.exp(5 * x) for x in p) / len(p)) / 5,
    "noisy-or": lambda p: 1 - math.prod(1 - x for x in p),
    "linear-softmax": lambda p: sum(x * x for x in p) / sum(p) if sum(p) else 0.0,
}
SECTION = AggregateSection(top_k=2, quantile=0.75, sharpness=5.0)


def _bags(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    sizes = draw.integers(1, 8, 40)
    probabilities = draw.random((sizes.sum(), 3), dtype=np.float32)
    probabilities[draw.random(probabilities.shape) < 0.1] = 0
    probabilities[draw.random(probabilities.shape) < 0.05] = 1
    return probabilities, np.append(0, np.cumsum(sizes)[:-1])


@pytest.mark.parametrize("kind", KINDS)
def test_every_formula_against_plain_python(kind: Formula) -> None:
    probabilities, first_rows = _bags()
    pooled = pool_bags(probabilities, first_rows, kind, SECTION)
    assert pooled.dtype == np.float32
    for bag, rows in enumerate(np.split(probabilities, first_rows[1:])):
        for c in range(3):
            assert pooled[bag, c] == pytest.approx(PLAIN[kind](rows[:, c].astype(float).tolist()), abs=2e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_properties_of_every_formula(kind: Formula) -> None:
    probabilities, first_rows = _bags(1)
    pooled = pool_bags(probabilities, first_rows, kind, SECTION)
    assert pooled.min() >= 0
    assert pooled.max() <= 1
    backwards = np.concatenate([rows[::-1] for rows in np.split(probabilities, first_rows[1:])])
    np.testing.assert_allclose(
        pool_bags(backwards, first_rows, kind, SECTION), pooled, atol=1e-6
    )  # order does not matter
    alone = pool_bags(probabilities, np.arange(len(probabilities)), kind, SECTION)
    np.testing.assert_allclose(alone, probabilities, atol=1e-6)  # a bag of one crop keeps its probabilities
    assert pool_bags(probabilities[:0], first_rows[:0], kind, SECTION).shape == (0, 3)


def _part(rows: list[tuple[str, int, int, bool, float]]) -> Part:
    ids, images = np.unique([row[0] for row in rows], return_inverse=True)
    return Part(
        [str(image_id) for image_id in ids],
        images,
        np.array([row[1] for row in rows], np.int32),
        np.array([row[2] for row in rows], np.int16),
        np.array([row[3] for row in rows]),
        np.array([[row[4]] for row in rows], np.float32),
    )


def test_bags_do_not_depend_on_the_parts_of_the_table() -> None:
    rows = [
        (f"i{i}", cell, fold, False, (i * 7 + cell * 3 + fold) % 10 / 10)
        for i in range(6)
        for cell in (1, 2)
        for fold in (0, 1)
    ]
    together = pool_parts([_part(rows)], 1, AggregateSection())
    apart = pool_parts([_part(rows[:8]), _part(rows[8:])], 1, AggregateSection())
    pd.testing.assert_frame_equal(together.table, apart.table)
    np.testing.assert_array_equal(together.scores, apart.scores)
    for place, bag in enumerate(together.table.itertuples()):
        values = [row[4] for row in rows if row[0] == bag.image_id and row[2] == bag.fold]
        assert together.scores[0, place, 0] == pytest.approx(max(values))
        assert bag.n_crops == 2


def test_crops_of_low_quality_are_skipped_unless_there_is_no_other() -> None:
    rows = [("a", 1, 0, True, 0.9), ("a", 2, 0, True, 0.4), ("b", 1, 0, True, 0.8), ("c", 0, 0, True, 0.7)]
    values = pd.Series({("a", 1): 0.2, ("a", 2): 0.6, ("b", 1): 0.1})  # c has no value: kept
    values.index = pd.MultiIndex.from_tuples(values.index)
    bags = pool_parts([_part(rows)], 1, AggregateSection(), CropQuality(values, 0.5))
    np.testing.assert_allclose(bags.scores[0, :, 0], [0.4, 0.8, 0.7])
    assert list(bags.table["n_crops"]) == [1, 1, 1]


def test_no_crops() -> None:
    bags = pool_parts([], 3, AggregateSection(pooling="per-class"))
    assert bags.scores.shape == (len(KINDS), 0, 3)
    assert bags.table.empty
