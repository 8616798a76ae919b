import numpy as np
from sklearn.metrics import precision_recall_fscore_support

from aggregate.metrics import class_table, shares_far_apart, summary
from hpa.vocabulary import Vocabulary

VOCABULARY = Vocabulary("five", tuple("abcde"))


def test_the_class_table_agrees_with_scikit_learn() -> None:
    draw = np.random.default_rng(0)
    targets, predictions = draw.random((2, 80, 5)) < 0.3
    targets[:, 4] = False
    predictions[:, 3] = False
    table = class_table(targets, predictions, np.arange(5) / 10, VOCABULARY)
    expected = precision_recall_fscore_support(targets, predictions, zero_division=0)
    for column, values in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        np.testing.assert_allclose(table[column], values, atol=1e-12)
    told = summary(targets, predictions, targets, table)
    assert told["macro_f1"] == np.mean(expected[2])
    assert told["macro_f1_in_sample"] == 0.8  # the class without a positive counts 0
    assert told["images"] == 80


def test_shares_that_chance_explains_and_that_it_does_not() -> None:
    far = shares_far_apart(np.array([0.1, 0.1, 0.0]), 1000, np.array([0.11, 0.2, 0.0]), 500)
    assert far.tolist() == [False, True, False]


def test_chance_rarely_looks_like_a_difference() -> None:
    draw = np.random.default_rng(1)
    oof, test = draw.binomial(1000, 0.1, 20_000) / 1000, draw.binomial(500, 0.1, 20_000) / 500
    assert shares_far_apart(oof, 1000, test, 500).mean() < 0.006  # 0.0027 if it were exactly normal
