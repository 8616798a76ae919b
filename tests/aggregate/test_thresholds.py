import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from aggregate.thresholds import (
    NEVER,
    Thresholds,
    best_threshold,
    best_thresholds,
    cross_fitted_thresholds,
    decide,
    read_thresholds,
)
from hpa.errors import UserError
from hpa.scores import f1_per_class
from hpa.vocabulary import HPA28, Vocabulary

THREE = Vocabulary("three", ("a", "b", "c"))


def _f1(positive: np.ndarray, scores: np.ndarray, threshold: float) -> float:
    return float(f1_per_class(positive[:, None], (scores > threshold)[:, None])[0])


@settings(max_examples=200, deadline=None)
@given(st.data(), st.integers(1, 30))
def test_no_threshold_is_better(data: st.DataObject, n: int) -> None:
    positive = data.draw(arrays(bool, n))
    scores = data.draw(arrays(np.float32, n, elements=st.floats(0, 1, width=32)))
    found = _f1(positive, scores, best_threshold(positive, scores))
    tried = [0.0, *np.linspace(0, 1, 101), *scores.astype(float), *np.nextafter(scores.astype(float), 0)]
    assert found >= max(_f1(positive, scores, max(threshold, 0.0)) for threshold in tried) - 1e-12


def test_midpoints_and_strictness() -> None:
    positive, scores = np.array([True, True, False, False]), np.array([0.9, 0.5, 0.3, 0.3])
    assert best_threshold(positive, scores) == pytest.approx(0.4)
    assert best_threshold(positive, np.array([0.5, 0.5, 0.5, 0.5])) == pytest.approx(0.25)
    assert best_threshold(np.zeros(4, bool), scores) == NEVER
    assert best_threshold(positive, np.zeros(4)) == NEVER


def test_a_row_is_never_decided_by_a_threshold_it_took_part_in() -> None:
    draw = np.random.default_rng(0)
    targets, scores, folds = draw.random((60, 3)) < 0.3, draw.random((60, 3)), draw.integers(0, 4, 60)
    fitted = cross_fitted_thresholds(targets, scores, folds)
    for i in range(60):
        others = folds != folds[i]
        np.testing.assert_array_equal(fitted[i], best_thresholds(targets[others], scores[others]))


def test_what_a_row_without_a_class_gets() -> None:
    scores = np.array([[0.1, 0.3, 0.2], [0.9, 0.5, 0.1]])
    thresholds = np.array([0.5, 0.5, 0.5])
    for empty, first in (("argmax", [0, 1, 0]), ("blank", [0, 0, 0]), ("c", [0, 0, 1])):
        decided = decide(scores, thresholds, empty, THREE)
        assert decided.astype(int).tolist() == [first, [1, 0, 0]]  # 0.5 is not above 0.5
    with pytest.raises(UserError, match="found 'd'"):
        decide(scores, thresholds, "d", THREE)


def _thresholds() -> Thresholds:
    return Thresholds(np.linspace(0.1, 0.9, 28), np.arange(28), np.full(28, 1 / 28), HPA28, "max", "per-class")


def test_the_file_keeps_every_bit(tmp_path: Path) -> None:
    _thresholds().write(tmp_path / "thresholds.json")
    again = read_thresholds(tmp_path / "thresholds.json", HPA28)
    np.testing.assert_array_equal(again.values, _thresholds().values)
    np.testing.assert_array_equal(again.support, _thresholds().support)
    np.testing.assert_array_equal(again.prior, _thresholds().prior)


def test_classes_are_found_by_name_whatever_their_order(tmp_path: Path) -> None:
    _thresholds().write(tmp_path / "thresholds.json")
    content = json.loads((tmp_path / "thresholds.json").read_text())
    content["classes"].reverse()
    (tmp_path / "thresholds.json").write_text(json.dumps(content))
    np.testing.assert_array_equal(read_thresholds(tmp_path / "thresholds.json", HPA28).values, _thresholds().values)


def test_a_file_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "thresholds.json"
    with pytest.raises(UserError, match="found none"):
        read_thresholds(path, HPA28)
    for text in ("", "[]", "{}", '{"classes": [{}]}'):
        path.write_text(text)
        with pytest.raises(UserError, match="found something else"):
            read_thresholds(path, HPA28)
    _thresholds().write(path)
    with pytest.raises(UserError, match="expected thresholds of three"):
        read_thresholds(path, THREE)
