from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from hpa.metrics import average_precision, f1_per_class, macro_f1, mean_average_precision, roc_auc
from hpa.vocabulary import HPA28


def test_f1_matches_scikit_learn() -> None:
    draw = np.random.default_rng(0)
    targets, predictions = draw.random((2, 200, 28)) < 0.1
    targets[:, 3] = predictions[:, 3] = False  # undefined: counts as 0
    expected = f1_score(targets, predictions, average=None, zero_division=0)
    np.testing.assert_allclose(f1_per_class(targets, predictions), expected, atol=1e-12)
    assert macro_f1(targets, predictions) == pytest.approx(expected.mean(), abs=1e-12)


@settings(max_examples=200)
@given(st.integers(0, 2**32 - 1), st.integers(2, 3000), st.sampled_from(["float32", "float64"]))
def test_areas_under_curves_match_scikit_learn(seed: int, n: int, dtype: str) -> None:
    """To 1e-12, with any share of positives and with as many ties as there are, including all scores alike."""
    draw = np.random.default_rng(seed)
    positive = draw.random(n) < draw.random()
    scores = np.round(draw.random(n), int(draw.integers(0, 9))).astype(dtype)
    if positive.any():
        expected = average_precision_score(positive, scores)
        assert average_precision(positive, scores) == pytest.approx(expected, rel=0, abs=1e-12)
    if 0 < positive.sum() < n:
        assert roc_auc(positive, scores) == pytest.approx(roc_auc_score(positive, scores), rel=0, abs=1e-12)


def test_mean_average_precision_ignores_classes_that_never_occur() -> None:
    targets = np.array([[True, False, False], [False, True, False], [True, False, False]])
    probabilities = np.array([[0.9, 0.1, 0.9], [0.5, 0.8, 0.9], [0.4, 0.9, 0.9]], dtype=np.float32)
    # First class: hits at ranks 1 and 3; second: at rank 2; third never occurs.
    assert mean_average_precision(targets, probabilities) == pytest.approx(((1 + 2 / 3) / 2 + 1 / 2) / 2)
    expected = average_precision_score(targets[:, :2], probabilities[:, :2], average="macro")
    assert mean_average_precision(targets, probabilities) == pytest.approx(expected)
    assert mean_average_precision(np.zeros((2, 3), dtype=bool), probabilities[:2]) == 0


def test_different_shapes_raise() -> None:
    with pytest.raises(ValueError, match="equal shapes"):
        macro_f1(np.zeros((2, 3), bool), np.zeros((3, 3), bool))


@pytest.mark.real_data("published")
def test_macro_f1_of_published_out_of_fold_predictions(real_data: Path) -> None:
    path = real_data / "published" / "oof_resnet50_decisions.csv"
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    hot = [HPA28.multi_hot(HPA28.parse(text) for text in table[column]) for column in ("Target", "Predicted")]
    assert round(macro_f1(*hot), 4) == 0.6622
