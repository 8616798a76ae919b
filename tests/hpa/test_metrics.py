from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

from hpa.metrics import f1_per_class, macro_f1
from hpa.vocabulary import HPA28


def test_f1_matches_scikit_learn() -> None:
    draw = np.random.default_rng(0)
    targets, predictions = draw.random((2, 200, 28)) < 0.1
    targets[:, 3] = predictions[:, 3] = False  # undefined: counts as 0
    expected = f1_score(targets, predictions, average=None, zero_division=0)
    np.testing.assert_allclose(f1_per_class(targets, predictions), expected, atol=1e-12)
    assert macro_f1(targets, predictions) == pytest.approx(expected.mean(), abs=1e-12)


def test_different_shapes_raise() -> None:
    with pytest.raises(ValueError, match="equal shapes"):
        macro_f1(np.zeros((2, 3), bool), np.zeros((3, 3), bool))


@pytest.mark.real_data("published")
def test_macro_f1_of_published_out_of_fold_predictions(real_data: Path) -> None:
    path = real_data / "published" / "oof_resnet50_decisions.csv"
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    hot = [HPA28.multi_hot(HPA28.parse(text) for text in table[column]) for column in ("Target", "Predicted")]
    assert round(macro_f1(*hot), 4) == 0.6622
