"""Retrieval scores against a naive loop and the library."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

from classify.inspect.retrieval import normalise_rows, relevance, score_retrieval

RNG = np.random.default_rng(5)
TARGETS = RNG.random((30, 5)) < 0.35
ALL_KNOWN = np.ones_like(TARGETS)
VECTORS = normalise_rows(RNG.normal(size=(30, 4)).astype(np.float32))


def _naive(groups: NDArray[np.int64], jaccard: float) -> tuple[float, float]:
    first, precision = [], []
    sets = [set(np.flatnonzero(row).tolist()) for row in TARGETS]
    for q in range(30):
        others = [i for i in range(30) if groups[i] != groups[q]]
        alike = {i for i in others if sets[q] & sets[i] and len(sets[q] & sets[i]) / len(sets[q] | sets[i]) >= jaccard}
        if not alike:
            continue
        ranked = sorted(others, key=lambda i: float(np.linalg.norm(VECTORS[q] - VECTORS[i])))
        total, hits = 0.0, 0
        for place, i in enumerate(ranked[: len(alike)], start=1):
            if i in alike:
                hits += 1
                total += hits / place
        first.append(ranked[0] in alike)
        precision.append(total / len(alike))
    return float(np.mean(first)), float(np.mean(precision))


@pytest.mark.parametrize("jaccard", [0.2, 0.5])
def test_scores_equal_a_naive_loop(jaccard: float) -> None:
    groups = np.arange(30) // 3
    found = score_retrieval(VECTORS, TARGETS, ALL_KNOWN, groups, np.arange(30), jaccard)
    assert (found.precision_at_1, found.map_at_r) == pytest.approx(_naive(groups, jaccard))


def test_scores_for_single_labels_equal_the_library() -> None:
    labels = np.sort(RNG.integers(0, 4, 30))
    hot = np.eye(4, dtype=bool)[labels]
    found = score_retrieval(VECTORS, hot, np.ones_like(hot), np.arange(30), np.arange(30), 0.5)
    calculator = AccuracyCalculator(
        include=("precision_at_1", "mean_average_precision_at_r"), k="max_bin_count", knn_func=_knn
    )
    library = calculator.get_accuracy(torch.from_numpy(VECTORS), torch.from_numpy(labels))
    assert found.precision_at_1 == pytest.approx(library["precision_at_1"])
    assert found.map_at_r == pytest.approx(library["mean_average_precision_at_r"])


def _knn(query: torch.Tensor, k: int, reference: torch.Tensor, same_source: bool) -> tuple[torch.Tensor, torch.Tensor]:
    distances = torch.cdist(query, reference)
    if same_source:
        distances.fill_diagonal_(torch.inf)
    near = distances.topk(k, largest=False)
    return near.values, near.indices


def test_relevance_requires_a_common_label() -> None:
    targets = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0]], dtype=bool)
    assert relevance(targets, np.ones_like(targets), 0, 0.5)[0].tolist() == [True, True, False, False]
    assert relevance(targets, np.ones_like(targets), 3, 0.5)[0].tolist() == [False] * 4


def test_undecided_pairs_are_skipped() -> None:
    """By a loop over classes; the candidates of a query are the rows whose relevance is decided."""
    known = RNG.random(TARGETS.shape) < 0.8
    targets = TARGETS & known
    for query in range(30):
        relevant, undecided = relevance(targets, known, query, 0.5)
        for other in range(30):
            common = union = loose = 0
            for c in range(targets.shape[1]):
                a, b = bool(targets[query, c]), bool(targets[other, c])
                if known[query, c] and known[other, c]:
                    common, union = common + (a and b), union + (a or b)
                else:
                    loose += a or b
            alike = common > 0 and common / union >= 0.5
            assert (relevant[other], undecided[other]) == (alike, loose > 0 and not alike)
    found = score_retrieval(VECTORS, targets, known, np.arange(30), np.arange(30), 0.5)
    first = []
    for query in range(30):
        relevant, undecided = relevance(targets, known, query, 0.5)
        others = [i for i in range(30) if i != query and not undecided[i]]
        if relevant[others].any():
            first.append(relevant[min(others, key=lambda i: float(np.linalg.norm(VECTORS[query] - VECTORS[i])))])
    assert found.queries == len(first)
    assert found.precision_at_1 == pytest.approx(np.mean(first))


def test_scores_without_relevant_rows_are_zero() -> None:
    alone = np.eye(30, dtype=bool)
    found = score_retrieval(VECTORS, alone, np.ones_like(alone), np.arange(30), np.arange(30), 0.5)
    assert (found.queries, found.map_at_r) == (0, 0.0)
