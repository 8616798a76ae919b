"""Every class loss against a naive loop, and what all of them promise: unknown classes, weights, finite gradients."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from timm.loss.asymmetric_loss import AsymmetricLossMultiLabel

from classify.config import ClassifySection
from classify.data.crops import FoldCrops
from classify.inference.evaluate import ScoredRows, score_images
from classify.loss_terms import LossName
from classify.losses.classification import class_loss, class_weights
from classify.network.model import Network
from hpa.errors import UserError
from tests.support.bright_crops import bright_crops, bright_fold, fold_of

NAMES = get_args(LossName)
Array = NDArray[np.float64]


def _drawn(n: int = 9, k: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(n, k, generator=draw) * 2, (torch.rand(n, k, generator=draw) < 0.4).float()


def _p(z: Array) -> Array:
    return 1 / (1 + np.exp(-z))


def _cross_entropy(z: Array, t: Array) -> Array:
    return -t * np.log(_p(z)) - (1 - t) * np.log(1 - _p(z))


def _asymmetric(z: Array, t: Array) -> float:
    """Equation 7 of the paper, with its gamma+ = 0, gamma- = 4 and m = 0.05."""
    total = 0.0
    for p, y in zip(_p(z).ravel(), t.ravel(), strict=True):
        p_m = max(p - 0.05, 0)
        total += -math.log(p) if y else -(p_m**4) * math.log(1 - p_m)
    return total / z.size


def _f1(p: Array, t: Array) -> float:
    hits, false, missed = (p * t).sum(), (p * (1 - t)).sum(), ((1 - p) * t).sum()
    return float(2 * hits / (2 * hits + false + missed))


def _mean_f1(z: Array, t: Array) -> float:
    return float(np.mean([_f1(_p(z[:, c]), t[:, c]) for c in range(z.shape[1]) if t[:, c].any()]))


def _jaccard_loss(wrong: set[int], positive: set[int]) -> float:
    """1 - the Jaccard index of a prediction that is wrong on a set (equation 6 of Berman et al.)."""
    return len(wrong) / len(positive | wrong) if wrong else 0.0


def _hinge(z: Array, t: Array) -> float:
    """The Lovasz extension of the Jaccard loss at the hinge errors, as a sum of differences of the set function."""
    errors = np.maximum(1 - z * (2 * t - 1), 0)
    order = [int(i) for i in np.argsort(-errors, kind="stable")]
    positive = set(np.flatnonzero(t).tolist())
    return sum(
        float(errors[i]) * (_jaccard_loss(set(order[: j + 1]), positive) - _jaccard_loss(set(order[:j]), positive))
        for j, i in enumerate(order)
    )


def _lovasz(z: Array, t: Array) -> float:
    return float(np.mean([(_hinge(z[:, c], t[:, c]) + _hinge(-z[:, c], 1 - t[:, c])) / 2 for c in range(z.shape[1])]))


def _hard(z: Array, t: Array) -> float:
    of_classes = []
    for c in range(z.shape[1]):
        losses = _cross_entropy(z[:, c], t[:, c])
        positives, negatives = losses[t[:, c] == 1], np.sort(losses[t[:, c] == 0])[::-1]
        n = len(negatives)
        kept = min(n, len(positives) + max(2, n // 2), int(0.7 * n) + 2)
        of_classes.append(np.concatenate([positives, negatives[:kept]]).mean())
    return float(np.mean(of_classes))


NAIVE: dict[str, Callable[[Array, Array], float]] = {
    "bce": lambda z, t: float(_cross_entropy(z, t).mean()),
    "focal": lambda z, t: float((np.abs(t - _p(z)) ** 2 * _cross_entropy(z, t)).mean()),
    "asymmetric": _asymmetric,
    "soft-f1-macro": lambda z, t: 1 - _mean_f1(z, t),
    "soft-f1-samples": lambda z, t: 1 - _mean_f1(z.T, t.T),
    "log-soft-f1-macro": lambda z, t: -math.log(_mean_f1(z, t)),
    "log-soft-f1-samples": lambda z, t: -math.log(_mean_f1(z.T, t.T)),
    "lovasz": _lovasz,
    "hard-bce": _hard,
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(9, 4), (40, 3), (3, 6)])
def test_every_loss_equals_a_naive_loop(name: str, shape: tuple[int, int]) -> None:
    logits, targets = _drawn(*shape)
    found = class_loss(logits, targets, ClassifySection(loss=name))
    assert found.item() == pytest.approx(NAIVE[name](logits.double().numpy(), targets.double().numpy()), rel=1e-5)


@pytest.mark.parametrize("margin", [0.0, 0.05, 0.2])
@pytest.mark.parametrize("gammas", [(0.0, 4.0), (1.0, 2.0), (0.0, 0.0)])
def test_asymmetric_loss_equals_that_of_timm(margin: float, gammas: tuple[float, float]) -> None:
    logits, targets = _drawn(20, 5)
    section = ClassifySection(loss="asymmetric", asymmetric_gammas=gammas, asymmetric_margin=margin)
    library = AsymmetricLossMultiLabel(gamma_neg=gammas[1], gamma_pos=gammas[0], clip=margin)
    ours, theirs = (logits.clone().requires_grad_() for _ in range(2))
    # Versions of timm sum over crops or average; of a single crop, both are the sum over its classes.
    sums = torch.stack([library(theirs[[n]], targets[[n]]) for n in range(len(targets))])
    found, expected = class_loss(ours, targets, section), sums.sum() / targets.numel()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(torch.autograd.grad(found, ours), torch.autograd.grad(expected, theirs))


def test_lovasz_hinge_bounds_the_jaccard_loss_and_meets_it_at_zero() -> None:
    """At logits of 0 every error is 1, and the extension at a constant is the set function of the whole set: 1."""
    targets = torch.tensor([[1.0], [0.0], [1.0], [0.0]])
    section = ClassifySection(loss="lovasz")
    assert class_loss(torch.zeros(4, 1), targets, section).item() == pytest.approx(1)
    assert class_loss(20 * (2 * targets - 1), targets, section).item() == 0
    # One positive of two is wrong by an error of 4: 4 (1 - 1/2) for the positives, 4 (1 - 2/3) for the negatives.
    wrong = torch.tensor([[-3.0], [-20.0], [20.0], [-20.0]])
    assert class_loss(wrong, targets, section).item() == pytest.approx((4 / 2 + 4 / 3) / 2)


def test_soft_f1_of_certain_predictions_is_the_f1_of_scikit_learn() -> None:
    from sklearn.metrics import f1_score

    logits, targets = _drawn(30, 4)
    certain, predicted = 100 * logits.sign(), logits.numpy() > 0
    for name, average in (("soft-f1-macro", "macro"), ("soft-f1-samples", "samples")):
        rows = slice(None) if average == "macro" else targets.any(1).numpy()
        expected = f1_score(targets.numpy()[rows], predicted[rows], average=average, zero_division=0)
        assert class_loss(certain, targets, ClassifySection(loss=name)).item() == pytest.approx(1 - expected, rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_unknown_classes_are_as_if_they_were_not_there(name: str) -> None:
    """An unknown class of all crops is a missing column, and crops of which nothing is known are missing rows."""
    values, targets = _drawn()
    section = ClassifySection(loss=name)
    weights = torch.rand(9, generator=torch.Generator().manual_seed(1)) + 0.1
    unknown = targets.clone()
    unknown[:, 2] = float("nan")
    unknown[[1, 4]] = float("nan")
    rows, columns = [0, 2, 3, 5, 6, 7, 8], [0, 1, 3]
    logits = values.clone().requires_grad_()
    found = class_loss(logits, unknown, section, weights)
    expected = class_loss(values[rows][:, columns], targets[rows][:, columns], section, weights[rows])
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    (gradient,) = torch.autograd.grad(found, logits)
    assert (gradient[unknown.isnan()] == 0).all()
    assert (gradient != 0).any()


@pytest.mark.parametrize("name", NAMES)
def test_a_single_unknown_entry_has_no_influence(name: str) -> None:
    values, targets = _drawn(12, 4)
    targets[3, 1] = targets[7, 0] = float("nan")
    section = ClassifySection(loss=name)
    other = values.clone()
    other[3, 1], other[7, 0] = 50.0, -50.0
    torch.testing.assert_close(class_loss(other, targets, section), class_loss(values, targets, section))


@pytest.mark.parametrize("name", NAMES)
def test_a_row_of_weight_three_counts_as_three_rows(name: str) -> None:
    logits, targets = _drawn(12, 4)
    times = torch.tensor([1, 3, 2, 1, 1, 2, 1, 4, 1, 1, 2, 1])
    section = ClassifySection(loss=name)
    found = class_loss(logits, targets, section, times.float())
    expected = class_loss(logits.repeat_interleave(times, 0), targets.repeat_interleave(times, 0), section)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("keys", [{}, {"focal_gamma": 0.5, "asymmetric_gammas": (0.5, 0.5), "asymmetric_margin": 0.0}])
@pytest.mark.parametrize("size", [1e2, 1e4])
def test_gradients_are_finite_at_large_logits(name: str, keys: dict[str, object], size: float) -> None:
    """Both where the network is right and where it is wrong; wrong crops still have a loss."""
    _, targets = _drawn(12, 4)
    signs = torch.randn(12, 4, generator=torch.Generator().manual_seed(2)).sign()
    for z in (signs * size, (2 * targets - 1) * size, (1 - 2 * targets) * size):
        logits = z.clone().requires_grad_()
        loss = class_loss(logits, targets, ClassifySection.model_validate({"loss": name, **keys}))
        (gradient,) = torch.autograd.grad(loss, logits)
        assert loss.isfinite()
        assert gradient.isfinite().all()
    assert loss > 0.5


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_without_known_targets_is_a_differentiable_zero(name: str) -> None:
    logits = torch.zeros(3, 4, requires_grad=True)
    found = class_loss(logits, torch.full((3, 4), float("nan")), ClassifySection(loss=name), torch.ones(3))
    assert found.item() == 0
    assert (torch.autograd.grad(found, logits)[0] == 0).all()


def test_a_list_of_losses_is_their_weighted_sum() -> None:
    logits, targets = _drawn()
    terms = [{"name": "focal", "weight": 0.5}, {"name": "lovasz", "weight": 0.5}, {"name": "hard-bce"}]
    found = class_loss(logits, targets, ClassifySection.model_validate({"loss": terms}))
    z, t = logits.double().numpy(), targets.double().numpy()
    expected = NAIVE["focal"](z, t) / 2 + NAIVE["lovasz"](z, t) / 2 + NAIVE["hard-bce"](z, t)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_label_smoothing_is_cross_entropy_with_softer_targets_and_spares_sets() -> None:
    logits, targets = _drawn()
    z, t = logits.double().numpy(), targets.double().numpy()
    found = class_loss(logits, targets, ClassifySection(loss="bce", label_smoothing=0.1))
    assert found.item() == pytest.approx(_cross_entropy(z, t * 0.9 + 0.05).mean(), rel=1e-5)
    for name in ("lovasz", "soft-f1-macro"):
        smooth = class_loss(logits, targets, ClassifySection(loss=name, label_smoothing=0.1))
        assert smooth == class_loss(logits, targets, ClassifySection(loss=name))


@pytest.mark.parametrize("name", [name for name in NAMES if "samples" not in name])
def test_class_weights_average_the_losses_of_single_classes(name: str) -> None:
    """Every loss but those of a crop's set of classes is a mean over classes, whose weights count."""
    logits, targets = _drawn(20, 3)
    section, weights = ClassifySection(loss=name.removeprefix("log-")), torch.tensor([0.5, 1.0, 4.0])
    alone = [class_loss(logits[:, [c]], targets[:, [c]], section).item() for c in range(3)]
    found = class_loss(logits, targets, section, classes=weights)
    assert found.item() == pytest.approx(np.average(alone, weights=weights.numpy()), rel=1e-5)


def _fold_of_counts(counts: list[int]) -> FoldCrops:
    """Return a fold whose training images have classes by these counts, two crops per image."""
    hot = np.zeros((sum(counts) + 2, len(counts)), dtype=bool)
    hot[np.arange(sum(counts)), np.repeat(np.arange(len(counts)), counts)] = True
    targets = np.repeat(hot, 2, axis=0)
    return fold_of(bright_crops(targets), targets, np.arange(len(targets)) // 2, 2 * sum(counts))


def test_inverse_class_weights_balance_the_images() -> None:
    crops = _fold_of_counts([1, 4, 10])
    weights = class_weights(ClassifySection(class_weights="inverse"), crops)
    assert weights is not None
    balanced = weights.numpy() * np.array([1, 4, 10])
    np.testing.assert_allclose(balanced, balanced[0], rtol=1e-6)
    assert weights.mean().item() == pytest.approx(1)


@pytest.mark.parametrize("chosen", ["inverse", "effective"])
def test_classes_that_no_image_has_do_not_outweigh_the_others(chosen: str) -> None:
    section = ClassifySection(class_weights=chosen)
    some, all_there = (class_weights(section, _fold_of_counts(counts)) for counts in ([1, 0, 4, 10], [1, 4, 10]))
    assert some is not None
    assert all_there is not None
    torch.testing.assert_close(some[[0, 2, 3]], all_there)
    assert some[1].item() == pytest.approx(1)


def test_effective_numbers_are_a_sum_of_powers() -> None:
    """The effective number of n images is 1 + b + ... + b^(n - 1)."""
    weights = class_weights(ClassifySection(class_weights="effective", effective_beta=0.9), _fold_of_counts([1, 4, 10]))
    assert weights is not None
    effective = np.array([sum(0.9**i for i in range(n)) for n in (1, 4, 10)])
    np.testing.assert_allclose(weights, 1 / effective / (1 / effective).mean(), rtol=1e-6)


def test_listed_class_weights_are_taken_and_counted() -> None:
    crops = _fold_of_counts([1, 4, 10])
    weights = class_weights(ClassifySection(class_weights=(1.0, 2.0, 3.0)), crops)
    assert weights is not None
    assert weights.tolist() == [0.5, 1.0, 1.5]
    with pytest.raises(UserError, match=r"expected classify\.class_weights for 3 classes, found 2 numbers"):
        class_weights(ClassifySection(class_weights=(1.0, 2.0)), crops)
    assert class_weights(ClassifySection(), crops) is None


def _first_cell_has_nothing() -> tuple[FoldCrops, FoldCrops]:
    """Return crops with the labels of their images, and the same with labels of cells, of which the first has none."""
    crops = bright_fold()
    labels, rows = crops.labels, crops.training
    _, first = np.unique(labels.images[rows], return_index=True)
    targets = labels.targets.copy()
    targets[rows[first]] = False
    return crops, replace(crops, labels=replace(labels, targets=targets))


@pytest.mark.parametrize("chosen", ["inverse", "effective"])
def test_an_image_counts_for_the_classes_of_any_of_its_cells(chosen: str) -> None:
    section = ClassifySection(backbone="cnn3", class_weights=chosen)
    of_images, of_cells = (class_weights(section, crops) for crops in _first_cell_has_nothing())
    assert of_images is not None
    assert of_cells is not None
    torch.testing.assert_close(of_cells, of_images)


def test_perfect_predictions_of_cells_have_a_perfect_score() -> None:
    _, crops = _first_cell_has_nothing()
    rows, section = crops.training, ClassifySection(backbone="cnn3", pretrained="none")
    logits = np.where(crops.labels.targets[rows], 9.0, -9.0).astype(np.float32)
    network = Network(section, 4, 3, np.ones(4), np.ones(4))
    scores = score_images(network, ScoredRows(rows, logits, None), crops, section)
    assert (scores.macro_f1, scores.mean_ap, scores.accuracy) == (1.0, 1.0, 1.0)
