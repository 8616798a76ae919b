from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from aggregate.labels import Labels
from aggregate.scoring.baselines import baselines
from aggregate.scoring.metrics import bootstrap, by_source, class_table, overall, shares_differ, summary
from hpa.metrics import average_precision, f1_per_class, macro_f1, roc_auc
from hpa.vocabulary import Vocabulary

VOCABULARY = Vocabulary("five", tuple("abcde"))
UNSAMPLED: Any = {"over": "images", "resamples": 0, "seed": 0}


def _rows(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    targets, predictions = draw.random((2, 80, 5)) < 0.3
    targets[:, 4] = False
    predictions[:, 3] = False
    return targets, predictions, np.round(draw.random((80, 5)), 1)  # with many ties


@pytest.mark.parametrize("seed", range(4))
def test_every_metric_agrees_with_scikit_learn(seed: int) -> None:
    """Metrics over all classes, per class, and their means, to 1e-12; one class has no positive, one no prediction."""
    targets, predictions, scores = _rows(seed)
    labels = Labels.all_known(targets)
    metrics = summary(labels, predictions, class_table(labels, predictions, VOCABULARY, scores), **UNSAMPLED)
    found = pd.DataFrame(metrics.pop("classes"))
    assert set(metrics.pop("baselines")) == {"every_class", "most_frequent", "chance"}
    assert found["class"].tolist() == list("abcde")
    of_classes = sk.precision_recall_fscore_support(targets, predictions, zero_division=0)
    for column, values in zip(("precision", "recall", "f1", "support"), of_classes, strict=True):
        np.testing.assert_allclose(found[column], values, rtol=0, atol=1e-12)
    curves = {
        "average_precision": [sk.average_precision_score(targets[:, c], scores[:, c]) for c in range(4)],
        "auc": [sk.roc_auc_score(targets[:, c], scores[:, c]) for c in range(4)],
    }
    for column, areas in curves.items():
        np.testing.assert_allclose(found[column], [*areas, np.nan], rtol=0, atol=1e-12)
    supported = targets[:, :4], predictions[:, :4]
    expected = {
        "macro_f1": sk.f1_score(targets, predictions, average="macro", zero_division=0),
        "macro_f1_supported": sk.f1_score(*supported, average="macro", zero_division=0),
        "micro_f1": sk.f1_score(targets, predictions, average="micro"),
        "samples_f1": sk.f1_score(targets, predictions, average="samples", zero_division=0),
        "exact_match": sk.accuracy_score(targets, predictions),
        "hamming_loss": sk.hamming_loss(targets, predictions),
        "thresholded_accuracy": sk.accuracy_score(targets.ravel(), predictions.ravel()),
        "mean_average_precision": sk.average_precision_score(targets[:, :4], scores[:, :4], average="macro"),
        "mean_auc": sk.roc_auc_score(targets[:, :4], scores[:, :4], average="macro"),
        "images": 80,
    }
    assert metrics == pytest.approx(expected, rel=0, abs=1e-12)


def test_baselines_match_their_closed_forms_and_a_simulation() -> None:
    targets, _, _ = _rows()
    known = np.random.default_rng(1).random(targets.shape) < 0.9
    labels = Labels(targets, known, np.arange(80), np.zeros(80, dtype=int))
    found = baselines(labels)
    share = labels.targets.sum(axis=0) / known.sum(axis=0)
    assert found["every_class"]["macro_f1"] == pytest.approx(np.mean(2 * share / (1 + share)))
    constant = [np.mean([2 * p / (1 + p) for p in np.sort(share)[::-1][:m]]) * m / 5 for m in range(1, 6)]
    assert found["most_frequent"]["macro_f1"] == pytest.approx(max(constant))
    assert found["most_frequent"]["classes"] == 1 + int(np.argmax(constant))
    flat = [average_precision(labels.targets[known[:, c], c], np.zeros(known[:, c].sum())) for c in range(4)]
    assert [scores["mean_average_precision"] for scores in found.values()] == pytest.approx([np.mean(flat)] * 3)
    # Many copies of the images, so that the F1 of a random prediction is near its expectation.
    rng, many = np.random.default_rng(2), Labels.all_known(np.tile(targets, (400, 1)))
    guessed = rng.random(many.targets.shape) < many.frequencies
    chance = baselines(many)["chance"]
    assert chance["macro_f1"] == pytest.approx(macro_f1(many.targets, guessed), abs=0.005)
    assert chance["micro_f1"] == pytest.approx(sk.f1_score(many.targets, guessed, average="micro"), abs=0.005)


def test_curves_without_positives_or_negatives() -> None:
    scores = np.array([0.1, 0.2])
    assert np.isnan(average_precision(np.zeros(2, bool), scores))
    assert np.isnan(roc_auc(np.zeros(2, bool), scores))
    assert np.isnan(roc_auc(np.ones(2, bool), scores))
    assert average_precision(np.ones(2, bool), scores) == 1.0


def test_bootstrap_against_resampled_rows() -> None:
    """Compare with a loop that draws and scores one resample at a time."""
    targets, predictions, _ = _rows()
    groups = np.random.default_rng(2).integers(0, 25, 80)
    found = bootstrap(Labels.all_known(targets, groups), predictions, 400, seed=7)
    numbers = np.unique(groups)
    rng = np.random.default_rng(99)
    drawn = [
        np.concatenate([np.flatnonzero(groups == g) for g in rng.choice(numbers, len(numbers))]) for _ in range(3000)
    ]
    macro = np.quantile([macro_f1(targets[rows], predictions[rows]) for rows in drawn], [0.025, 0.975])
    np.testing.assert_allclose(found.scores["macro_f1"], macro, atol=0.015)
    samples = np.quantile(
        [overall(Labels.all_known(targets[rows]), predictions[rows])["samples_f1"] for rows in drawn], [0.025, 0.975]
    )
    np.testing.assert_allclose(found.scores["samples_f1"], samples, atol=0.015)
    own = np.quantile([f1_per_class(targets[rows], predictions[rows])[0] for rows in drawn], [0.025, 0.975])
    assert found.classes[0] is not None
    np.testing.assert_allclose(found.classes[0], own, atol=0.03)
    assert found.classes[4] is None  # never a positive


def test_intervals_of_one_group_and_of_large_groups() -> None:
    targets, predictions, _ = _rows()
    one = bootstrap(Labels.all_known(targets, np.zeros(80, int)), predictions, 50, seed=0)
    assert one.scores["macro_f1"] == pytest.approx((macro_f1(targets, predictions),) * 2)
    targets, predictions = np.repeat(targets, 6, axis=0), np.repeat(predictions, 6, axis=0)
    by_group = bootstrap(Labels.all_known(targets, np.repeat(np.arange(80), 6)), predictions, 500, seed=0)
    by_row = bootstrap(Labels.all_known(targets), predictions, 500, seed=0)
    width = [np.diff(found.scores["micro_f1"]).item() for found in (by_group, by_row)]
    assert width[0] > 1.8 * width[1]  # six images of a group count as one: the square root of six


def test_intervals_have_about_their_nominal_coverage() -> None:
    rng = np.random.default_rng(5)
    truth = 2 * 0.4 * 0.7 / (0.4 + 0.4 * 0.7 + 0.6 * 0.2)  # F1 of recall 0.7 and false alarms 0.2 at prevalence 0.4
    covered = 0
    for seed in range(200):
        targets = rng.random((150, 1)) < 0.4
        predictions = rng.random((150, 1)) < np.where(targets, 0.7, 0.2)
        low, high = bootstrap(Labels.all_known(targets), predictions, 200, seed).scores["micro_f1"]
        covered += low <= truth <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_summary_is_complete() -> None:
    targets, predictions, scores = _rows()
    labels = Labels.all_known(targets)
    table = class_table(labels, predictions, VOCABULARY, scores)
    metrics = summary(labels, predictions, table, over="images", resamples=50, seed=0)
    assert metrics["images"] == 80
    assert metrics["classes"][4]["auc"] is None
    assert metrics["classes"][4]["f1_interval"] is None
    assert metrics["bootstrap"]["resamples"] == 50
    assert (metrics["bootstrap"]["groups"], metrics["bootstrap"]["over"]) == (80, "images")
    assert "counts as 0" in metrics["bootstrap"]["absent_classes"]
    low, high = metrics["intervals"]["macro_f1"]
    assert low <= metrics["macro_f1"] <= high
    assert "intervals" not in summary(labels, predictions, table, **UNSAMPLED)


def test_metrics_of_each_source() -> None:
    targets, predictions, _ = _rows()
    sources = np.array(["x", "y"] * 40, dtype=object)
    metrics = by_source(Labels.all_known(targets), predictions, sources)
    assert metrics["y"]["images"] == 40
    assert metrics["y"]["macro_f1"] == macro_f1(targets[1::2], predictions[1::2])


def test_shares_that_differ_by_chance_and_by_more() -> None:
    far = shares_differ(np.array([0.1, 0.1, 0.0]), 1000, np.array([0.11, 0.2, 0.0]), 500)
    assert far.tolist() == [False, True, False]


def test_shares_rarely_differ_by_chance() -> None:
    draw = np.random.default_rng(1)
    oof, test = draw.binomial(1000, 0.1, 20_000) / 1000, draw.binomial(500, 0.1, 20_000) / 500
    assert shares_differ(oof, 1000, test, 500).mean() < 0.006  # 0.0027 if it were exactly normal


def test_unknown_pairs_count_in_no_metric() -> None:
    """Compare with a loop over the known pairs, and over those of a resample; the others have wrong labels."""
    targets, predictions, scores = _rows()
    draw = np.random.default_rng(3)
    known = draw.random(targets.shape) < 0.7
    known[:, 2] = False
    targets, predictions = targets | ~known, predictions & known
    groups = np.arange(80) // 4

    def f1(rows: list[int], c: int) -> float:
        pairs = [(bool(targets[row, c]), bool(predictions[row, c])) for row in rows if known[row, c]]
        return sk.f1_score(*zip(*pairs, strict=True), zero_division=0) if pairs else 0.0

    every = list(range(80))
    labels = Labels(targets, known, groups, np.zeros_like(groups))
    table = class_table(labels, predictions, VOCABULARY, scores)
    metrics = summary(labels, predictions, table, over="images", resamples=1, seed=4)
    assert metrics["macro_f1"] == pytest.approx(np.mean([f1(every, c) for c in range(5)]))
    assert table["f1"].tolist() == pytest.approx([f1(every, c) for c in range(5)])
    assert table["labelled"].tolist() == known.sum(axis=0).tolist()
    for c in (0, 1, 3):
        own = known[:, c]
        assert table["auc"][c] == pytest.approx(sk.roc_auc_score(targets[own, c], scores[own, c]))
        assert table["average_precision"][c] == pytest.approx(
            sk.average_precision_score(targets[own, c], scores[own, c])
        )
    assert np.isnan(table["auc"][2])
    of_pairs = [bool(targets[pair] == predictions[pair]) for pair in np.ndindex(*known.shape) if known[pair]]
    assert metrics["thresholded_accuracy"] == pytest.approx(np.mean(of_pairs))
    assert metrics["hamming_loss"] == pytest.approx(1 - np.mean(of_pairs))
    rows_right = [all(targets[i, c] == predictions[i, c] for c in range(5) if known[i, c]) for i in every]
    assert metrics["exact_match"] == pytest.approx(np.mean(rows_right))
    drawn = np.random.default_rng(4).integers(0, 20, 20)  # the groups that the bootstrap draws
    rows = [row for group in drawn for row in every if groups[row] == group]
    assert metrics["intervals"]["macro_f1"][0] == pytest.approx(np.mean([f1(rows, c) for c in range(5)]), abs=1e-6)
    assert metrics["intervals"]["exact_match"][0] == pytest.approx(np.mean([rows_right[row] for row in rows]))
    assert by_source(labels, predictions, np.array(["x"] * 80, dtype=object))["x"] == overall(labels, predictions) | {
        "images": 80
    }
