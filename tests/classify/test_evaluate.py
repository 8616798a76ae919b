"""Outputs of a network and scores of images against full passes and naive loops; views and precision."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score

from classify.config import ClassifySection
from classify.inference.evaluate import (
    BATCH,
    evaluate,
    predict_batches,
    uses_bfloat16,
)
from classify.inference.views import dihedral, predict_views, rescaled, scored_views
from classify.losses.classification import class_loss
from classify.network.model import Network, Outputs, new_network
from hpa.errors import UserError
from tests.support.bright_crops import bright_crops, bright_fold, predict_logits

pytestmark = pytest.mark.usefixtures("tiny_backbone")
CPU = torch.device("cpu")


def _network(section: ClassifySection) -> Network:
    return new_network(section, 0, np.full(4, 60.0), np.full(4, 50.0), [0.5, 0.5, 0.5])


def test_logits_by_batch_equal_those_of_one_pass() -> None:
    section = ClassifySection(precision="32")
    n = BATCH + 5
    source = bright_crops(np.random.default_rng(0).random((n, 3)) < 0.5)
    network = _network(section).train()
    rows = np.arange(n)[::-1].copy()
    streamed = list(predict_logits(network, source, rows, section))
    assert [len(block) for block in streamed] == [BATCH, 5]
    assert network.training, "the mode it came in"
    with torch.no_grad():
        full = network.eval()(torch.from_numpy(source.crops[rows])).logits.numpy()
    np.testing.assert_allclose(np.concatenate(streamed), full, rtol=1e-4, atol=1e-6)


def test_bf16_is_close_and_returns_float32() -> None:
    source = bright_crops(np.random.default_rng(0).random((6, 3)) < 0.5)
    network = _network(ClassifySection())
    (full,) = predict_logits(network, source, np.arange(6), ClassifySection(precision="32"))
    (half,) = predict_logits(network, source, np.arange(6), ClassifySection(precision="bf16"))
    assert half.dtype == np.float32
    assert not np.array_equal(full, half)
    np.testing.assert_allclose(full, half, atol=0.05)


def test_scores_of_images_pooled_by_the_maximum() -> None:
    crops = bright_fold()
    crops = replace(crops, validation=crops.validation[:-1])  # one image keeps a single crop
    section = ClassifySection(focal_gamma=1.0)
    network = _network(section)
    (logits,) = predict_logits(network, crops.source, crops.validation, section)
    result = evaluate(network, crops, section, CPU)
    images = sorted(set(crops.labels.images[crops.validation].tolist()))
    pooled, targets = [], []
    for image in images:
        own = [i for i, row in enumerate(crops.validation) if crops.labels.images[row] == image]
        pooled.append([max(1 / (1 + np.exp(-float(logits[i, k]))) for i in own) for k in range(3)])
        targets.append(crops.labels.targets[crops.validation[own[0]]])
    f1 = []
    for k in range(3):
        pairs = [(int(p[k] > 0.5), int(t[k])) for p, t in zip(pooled, targets, strict=True)]
        both, either = sum(a and b for a, b in pairs), sum(a + b for a, b in pairs)
        f1.append(2 * both / either if either else 0.0)
    assert result.macro_f1 == pytest.approx(np.mean(f1))
    present = np.array(targets).any(axis=0)
    right = [(p > 0.2) == t for one, hot in zip(pooled, targets, strict=True) for p, t in zip(one, hot, strict=True)]
    assert result.accuracy == pytest.approx(np.mean(right))
    ap = average_precision_score(np.array(targets)[:, present], np.array(pooled)[:, present], average="macro")
    assert result.mean_ap == pytest.approx(ap)
    truth = torch.from_numpy(crops.labels.targets[crops.validation])
    expected = class_loss(torch.from_numpy(logits), truth, ClassifySection(focal_gamma=1.0))
    assert result.loss == pytest.approx(expected.item())


def test_a_probability_of_exactly_one_half_is_no_prediction() -> None:
    crops = bright_fold()
    network = _network(ClassifySection())
    with torch.no_grad():
        network.head.weight.zero_()
        network.head.bias.zero_()
    assert evaluate(network, crops, ClassifySection(), CPU).macro_f1 == 0


@pytest.mark.parametrize("section", [ClassifySection(), ClassifySection(objective="bag", pooling="max")])
def test_unknown_classes_are_neither_right_nor_wrong(section: ClassifySection) -> None:
    """The scores of each class are those over the images for which it is known."""
    crops = bright_fold(40, 40, seed=1)
    known = ~np.repeat(np.random.default_rng(2).random((40, 3)) < 0.4, 2, axis=0)
    targets = crops.labels.targets & known
    network = _network(section)
    crops = replace(crops, labels=replace(crops.labels, targets=targets, known=known))
    found = evaluate(network, crops, section, CPU)
    rows = crops.validation
    logits = np.concatenate(list(predict_logits(network, crops.source, rows, section)))
    pooled = 1 / (1 + np.exp(-np.maximum(logits[0::2], logits[1::2])))  # two crops an image
    f1, precision = [], []
    for c in range(3):
        counted = known[rows][0::2, c]
        truth, score = targets[rows][0::2, c][counted], pooled[counted, c]
        f1.append(f1_score(truth, score > 0.5, zero_division=0))
        precision.append(average_precision_score(truth, score))
    assert found.macro_f1 == pytest.approx(np.mean(f1))
    assert found.mean_ap == pytest.approx(np.mean(precision))
    assert np.isfinite(found.loss)


SOURCE = bright_crops(np.random.default_rng(0).random((6, 3)) < 0.5)
ROWS = np.arange(6)


def test_views_equal_rotations_and_flips_of_numpy() -> None:
    crop = np.arange(2 * 9).reshape(2, 3, 3)
    expected = {np.rot90(view, k, (1, 2)).tobytes() for view in (crop, crop[:, ::-1]) for k in range(4)}
    views = dihedral(torch.from_numpy(crop)[None])
    assert {view[0].numpy().tobytes() for view in views} == expected
    assert len(expected) == 8
    np.testing.assert_array_equal(views[0][0].numpy(), crop)


def _section(*kinds: Any, **keys: Any) -> ClassifySection:
    return ClassifySection(test_views="mean", view_kinds=kinds, **keys)


def test_flips_are_the_four_mirror_images() -> None:
    pixels = torch.from_numpy(SOURCE.crops)
    views = scored_views(pixels, _section("flips"))
    expected = [SOURCE.crops, SOURCE.crops[..., ::-1], SOURCE.crops[:, :, ::-1], SOURCE.crops[:, :, ::-1, ::-1]]
    assert len(views) == 4
    for view, mirrored in zip(views, expected, strict=True):
        np.testing.assert_array_equal(view.numpy(), mirrored)
    assert views[0] is pixels


def test_five_crops_are_the_corners_and_the_centre() -> None:
    numbered = torch.arange(2 * 49, dtype=torch.uint8).reshape(1, 2, 7, 7)
    views = scored_views(numbered, _section("five_crops", view_side=0.43))
    corners = [tuple(view[0, 0, [0, -1], [0, -1]].tolist()) for view in views]
    assert corners == [(0, 16), (4, 20), (28, 44), (32, 48), (16, 32)]  # first and last pixel of 3 x 3, row by row
    assert all(view.shape == (1, 2, 3, 3) for view in views)


@pytest.mark.parametrize(("scale", "side"), [(0.5, 8), (0.8, 13), (1.25, 20), (2.0, 32)])
def test_scales_are_about_the_centre_and_keep_the_size_of_what_they_show(scale: float, side: int) -> None:
    """A centred square of 8 px becomes one of 8 times the scale, by its area, still in the centre."""
    pixels = torch.zeros(1, 1, 32, 32, dtype=torch.uint8)
    pixels[:, :, 12:20, 12:20] = 200
    view = rescaled(pixels, scale)[0, 0].double() / 200
    assert view.shape == (32, 32)
    assert view.sum().sqrt().item() == pytest.approx(8 * round(32 * scale) / 32, rel=0.05)
    for axis in (0, 1):
        centre = (view.sum(axis) * torch.arange(32)).sum() / view.sum()
        assert centre.item() == pytest.approx(15.5, abs=0.51)
    assert rescaled(torch.full((1, 1, 16, 16), 9, dtype=torch.uint8), scale).sum() == 9 * min(side, 16) ** 2


def test_kinds_of_views_are_combined() -> None:
    pixels = torch.from_numpy(SOURCE.crops)
    section = _section("dihedral", "five_crops", "scales", view_scales=(0.8, 1.25), view_side=0.5)
    views = scored_views(pixels, section)
    assert len(views) == 3 * 5 * 8
    assert {view.shape[2] for view in views} == {8}
    expected = torch.rot90(rescaled(pixels, 0.8)[:, :, :8, 8:], 1, (2, 3))
    assert any(torch.equal(view, expected) for view in views)


@pytest.mark.parametrize("rule", ["mean", "maximum"])
def test_every_view_is_scored_once_and_counts_alike(rule: Any) -> None:
    """A network of one number: the mean brightness of the top left pixel."""
    seen = []

    def network(view: torch.Tensor) -> Outputs:
        seen.append(view)
        logits = view[:, 0, :1, 0].float() / 100
        return Outputs(logits, None, logits, None)

    section = ClassifySection(test_views=rule, view_kinds=("flips",))
    outputs, probabilities = predict_views(network, torch.from_numpy(SOURCE.crops), section)
    corners = SOURCE.crops[:, 0][:, [0, 0, -1, -1], [0, -1, 0, -1]] / 100
    single = 1 / (1 + np.exp(-corners))
    expected = single.mean(1) if rule == "mean" else single.max(1)
    np.testing.assert_allclose(probabilities[:, 0].numpy(), expected, rtol=1e-5)
    np.testing.assert_allclose(outputs.logits[:, 0].numpy(), corners[:, 0], rtol=1e-6)
    assert len(seen) == 4


def _predict(views: Any, crops: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    section = ClassifySection(backbone="cnn3", test_views=views, embedding_dim=3)
    torch.manual_seed(0)
    network = Network(section, 4, 3, [60.0] * 4, [50.0] * 4).eval()
    with torch.no_grad():
        network.head.weight *= 50  # so that the mean of probabilities is not nearly the probability of the mean
    source = SOURCE if crops is None else type(SOURCE)(crops, SOURCE.own)
    (outputs,) = predict_batches(network, source, ROWS, section, CPU)
    assert outputs.embeddings is not None
    return outputs.probabilities, outputs.features, outputs.embeddings


def test_mean_and_maximum_of_the_eight_views() -> None:
    singles = [_predict("one", view.numpy()) for view in dihedral(torch.from_numpy(SOURCE.crops))]
    probabilities = np.stack([p for p, _, _ in singles])
    assert np.ptp(probabilities, axis=0).max() > 0.1, "the outputs of the views differ"
    np.testing.assert_allclose(_predict("mean")[0], probabilities.mean(0), rtol=1e-5)
    np.testing.assert_allclose(_predict("maximum")[0], probabilities.max(0), rtol=1e-5)
    np.testing.assert_allclose(_predict("mean")[1], np.stack([f for _, f, _ in singles]).mean(0), rtol=1e-4, atol=1e-6)


def test_mean_of_views_is_invariant_to_rotation() -> None:
    turned = np.rot90(SOURCE.crops, 1, (2, 3)).copy()
    for one, other in zip(_predict("mean"), _predict("mean", turned), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_embeddings_of_views_have_unit_length() -> None:
    np.testing.assert_allclose(np.linalg.norm(_predict("mean")[2], axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize(("precision", "expected"), [("32", False), ("bf16", True)])
def test_explicit_precision_is_used(precision: str, expected: bool) -> None:
    assert uses_bfloat16(precision, torch.device("cpu"), "cnn3") is expected  # type: ignore[arg-type]


@pytest.mark.parametrize("has", [True, False])
def test_auto_precision_depends_on_the_processor(monkeypatch: pytest.MonkeyPatch, has: bool) -> None:
    monkeypatch.setattr("hpa.work.device.has_bf16_instructions", lambda: has)
    assert uses_bfloat16("auto", torch.device("cpu"), "cnn3") is has
    assert not uses_bfloat16("auto", torch.device("cpu"), "mobilenet_v3_small"), "depthwise convolutions"


@pytest.mark.parametrize("change", [{}, {"normalise": "percentiles"}, {"embedding_dim": 3, "test_views": "mean"}])
def test_a_batch_that_does_not_fit_is_halved_until_it_does(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    """Every crop keeps its own levels, and the parts are joined in order."""
    section = ClassifySection().model_copy(update=change)
    network = _network(section)
    levels = np.stack([np.arange(24), np.arange(10, 34)], axis=1).reshape(6, 2, 4).astype(np.float32) + 1
    own = levels if section.normalise == "percentiles" else None
    (expected,) = predict_batches(network, SOURCE, ROWS, section, CPU, own)
    forward, sizes = Network.forward, []

    def short_of_memory(self: Network, pixels: torch.Tensor, given: torch.Tensor | None = None) -> Any:
        sizes.append(len(pixels))
        if len(pixels) > 2:
            raise torch.OutOfMemoryError
        return forward(self, pixels, given)

    monkeypatch.setattr(Network, "forward", short_of_memory)
    (found,) = predict_batches(network, SOURCE, ROWS, section, CPU, own)
    assert sizes[:2] == [6, 3]
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_no_room_for_a_single_crop_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def short_of_memory(*_: Any) -> Any:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(Network, "forward", short_of_memory)
    with pytest.raises(UserError, match="expected room for one crop on the device, found less"):
        list(predict_batches(_network(ClassifySection()), SOURCE, ROWS, ClassifySection(), CPU))
