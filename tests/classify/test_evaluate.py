"""Streaming logits and scoring images, against whole passes and naive loops."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score

from classify.config import ClassifySection
from classify.inference.evaluate import BATCH, evaluate, mean_average_precision, pick_device, predict_logits
from classify.losses.classification import focal_loss
from classify.network.model import Network, new_network
from hpa.errors import UserError
from tests.classify.world import bright_crops, bright_fold

pytestmark = pytest.mark.usefixtures("tiny_backbone")
CPU = torch.device("cpu")


def _network(section: ClassifySection) -> Network:
    return new_network(section, 0, np.full(4, 60.0), np.full(4, 50.0), [0.5, 0.5, 0.5])


def test_streamed_logits_are_those_of_one_pass() -> None:
    section = ClassifySection()
    n = BATCH + 5
    source = bright_crops(np.random.default_rng(0).random((n, 3)) < 0.5)
    network = _network(section).train()
    rows = np.arange(n)[::-1].copy()
    streamed = list(predict_logits(network, source, rows, section, CPU))
    assert [len(block) for block in streamed] == [BATCH, 5]
    assert network.training, "the mode it came in"
    with torch.no_grad():
        whole = network.eval()(torch.from_numpy(source.crops[rows])).logits.numpy()
    np.testing.assert_allclose(np.concatenate(streamed), whole, rtol=1e-4, atol=1e-6)


def test_bf16_is_near_and_comes_back_as_float32() -> None:
    source = bright_crops(np.random.default_rng(0).random((6, 3)) < 0.5)
    network = _network(ClassifySection())
    (full,) = predict_logits(network, source, np.arange(6), ClassifySection(), CPU)
    (half,) = predict_logits(network, source, np.arange(6), ClassifySection(precision="bf16"), CPU)
    assert half.dtype == np.float32
    assert not np.array_equal(full, half)
    np.testing.assert_allclose(full, half, atol=0.05)


def test_an_image_is_as_probable_as_its_likeliest_crop() -> None:
    crops = bright_fold()
    crops = replace(crops, validation=crops.validation[:-1])  # one image keeps a single crop
    section = ClassifySection(focal_gamma=1.0)
    network = _network(section)
    (logits,) = predict_logits(network, crops.source, crops.validation, section, CPU)
    result = evaluate(network, crops, section, CPU)
    images = sorted(set(crops.images[crops.validation].tolist()))
    pooled, targets = [], []
    for image in images:
        own = [i for i, row in enumerate(crops.validation) if crops.images[row] == image]
        pooled.append([max(1 / (1 + np.exp(-float(logits[i, k]))) for i in own) for k in range(3)])
        targets.append(crops.targets[crops.validation[own[0]]])
    f1 = []
    for k in range(3):
        pairs = [(int(p[k] > 0.5), int(t[k])) for p, t in zip(pooled, targets, strict=True)]
        both, either = sum(a and b for a, b in pairs), sum(a + b for a, b in pairs)
        f1.append(2 * both / either if either else 0.0)
    assert result.macro_f1 == pytest.approx(np.mean(f1))
    assert result.mean_ap == pytest.approx(mean_average_precision(np.array(targets), np.array(pooled, np.float32)))
    expected = focal_loss(torch.from_numpy(logits), torch.from_numpy(crops.targets[crops.validation]), 1.0)
    assert result.loss == pytest.approx(expected.item())


def test_average_precision_by_hand_leaves_out_what_never_occurs() -> None:
    targets = np.array([[True, False, False], [False, True, False], [True, False, False]])
    probabilities = np.array([[0.9, 0.1, 0.9], [0.5, 0.8, 0.9], [0.4, 0.9, 0.9]], dtype=np.float32)
    # First class: hits at ranks 1 and 3; second: at rank 2; third never occurs.
    assert mean_average_precision(targets, probabilities) == pytest.approx(((1 + 2 / 3) / 2 + 1 / 2) / 2)
    assert mean_average_precision(np.zeros((2, 3), dtype=bool), probabilities[:2]) == 0


@pytest.mark.parametrize("name", ["quantum", "cuda:99"])
def test_a_device_that_is_not_there_is_an_error(name: str) -> None:
    with pytest.raises(UserError, match="expected a device that is here"):
        pick_device(name)


@pytest.mark.parametrize("section", [ClassifySection(), ClassifySection(objective="bag", pooling="max")])
def test_masked_classes_are_neither_right_nor_wrong(section: ClassifySection) -> None:
    """Class by class, the scores are those of the images of which it is known."""
    crops = bright_fold(40, 40, seed=1)
    masked = np.repeat(np.random.default_rng(2).random((40, 3)) < 0.4, 2, axis=0)
    targets = crops.targets & ~masked
    network = _network(section)
    found = evaluate(network, replace(crops, targets=targets, masked=masked), section, CPU)
    rows = crops.validation
    logits = np.concatenate(list(predict_logits(network, crops.source, rows, section, CPU)))
    pooled = 1 / (1 + np.exp(-np.maximum(logits[0::2], logits[1::2])))  # two crops an image
    f1, precision = [], []
    for c in range(3):
        known = ~masked[rows][0::2, c]
        truth, score = targets[rows][0::2, c][known], pooled[known, c]
        f1.append(f1_score(truth, score > 0.5, zero_division=0))
        precision.append(average_precision_score(truth, score))
    assert found.macro_f1 == pytest.approx(np.mean(f1))
    assert found.mean_ap == pytest.approx(np.mean(precision))
    assert np.isfinite(found.loss)
