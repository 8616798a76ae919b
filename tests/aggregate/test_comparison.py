"""Differences between runs and their intervals, against scikit-learn and a naive bootstrap."""

import numpy as np
import pytest
from sklearn import metrics as sk

from aggregate.labels import Labels
from aggregate.scoring.comparison import Scored, compare_runs, resampled_average_precision


def _world(seed: int, n: int = 90, k: int = 4) -> tuple[Labels, list[Scored]]:
    rng = np.random.default_rng(seed)
    targets = rng.random((n, k)) < 0.3
    labels = Labels(targets, rng.random((n, k)) < 0.9, np.arange(n) // 3, np.zeros(n, dtype=int))
    runs = [np.round(np.clip(targets * shift + rng.random((n, k)), 0, 1), 1) for shift in (0.2, 0.2, 0.5)]
    return labels, [Scored(scores > 0.6, scores) for scores in runs]


def test_resampled_average_precision_is_that_of_repeated_rows() -> None:
    rng = np.random.default_rng(0)
    targets, scores, groups = rng.random(40) < 0.4, np.round(rng.random(40), 1), rng.integers(0, 12, 40)
    times = rng.integers(0, 4, (12, 20)).astype(np.float32)
    expected = [
        sk.average_precision_score(np.repeat(targets, own[groups]), np.repeat(scores, own[groups]))
        for own in times.T.astype(int)
    ]
    np.testing.assert_allclose(resampled_average_precision(targets, scores, groups, times), expected, atol=1e-12)
    assert np.isnan(resampled_average_precision(np.zeros(40, bool), scores, groups, times)).all()
    times[np.unique(groups[targets])] = 0
    assert np.isnan(resampled_average_precision(targets, scores, groups, times)).all()


@pytest.mark.parametrize("seed", range(2))
def test_differences_and_intervals_agree_with_a_naive_bootstrap(seed: int) -> None:
    labels, runs = _world(seed)
    compared = compare_runs(labels, runs, 4000, seed=1)

    def naive(run: Scored, rows: np.ndarray) -> list[float]:
        y, p = labels.targets[rows], (run.predictions & labels.known)[rows]
        macro = sk.f1_score(y, p, average="macro", zero_division=0)
        micro = sk.f1_score(y, p, average="micro", zero_division=0)
        areas = []
        for c in range(4):
            own = rows[labels.known[rows, c]]
            if labels.targets[own, c].any():
                areas.append(sk.average_precision_score(labels.targets[own, c], run.scores[own, c]))
        return [macro, micro, float(np.mean(areas))]

    every = np.arange(90)
    rng = np.random.default_rng(7)
    draws = [np.concatenate([every[labels.groups == g] for g in rng.integers(0, 30, 30)]) for _ in range(200)]
    first = np.array([naive(runs[0], rows) for rows in draws])
    for run, found in zip(runs, compared, strict=True):
        resampled = np.array([naive(run, rows) for rows in draws]) - first
        low, high = np.quantile(resampled, [0.025, 0.975], axis=0)
        for m, value in enumerate(naive(run, every)):
            own = list(found.values())[m]
            assert own.value == pytest.approx(value, abs=1e-12)
            assert own.difference == pytest.approx(value - naive(runs[0], every)[m], abs=1e-12)
            assert own.low == pytest.approx(low[m], abs=0.03)
            assert own.high == pytest.approx(high[m], abs=0.03)
    assert all(own.low == own.high == 0 for own in compared[0].values())


def test_a_better_run_is_told_from_an_equal_one() -> None:
    labels, runs = _world(5, n=300)
    _, equal, better = compare_runs(labels, runs, 500, seed=0)
    for name in ("macro_f1", "mean_average_precision"):
        low, high = equal[name].low, equal[name].high
        assert low is not None
        assert high is not None
        assert low < 0 < high
        assert (better[name].low or 0) > 0
    assert compare_runs(labels, runs, 0, seed=0)[1]["macro_f1"].low is None
