"""Pooling: each formula against a loop over bags, torch against NumPy, and padding without effect."""

import math
from typing import get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from aggregate.pooling.formulas import pool_as_trained
from classify.config import ClassifySection, Pooling
from classify.losses.objective import pool_bags
from classify.losses.pooling import Bags, pad_bags, pool, pooled_logits
from classify.trained_pooling import TrainedPooling
from hpa.errors import UserError

POOLINGS: tuple[Pooling, ...] = get_args(Pooling)
SIZES = [1, 40, 3, 2]
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 2, (sum(SIZES), 5)).astype(np.float32)
P = 1 / (1 + np.exp(-LOGITS.astype(np.float64)))
BAGS = np.repeat(np.arange(len(SIZES)), SIZES)
FIRST = np.concatenate([[0], np.cumsum(SIZES)[:-1]])
WEIGHTS = RNG.uniform(0.1, 1, len(LOGITS)).astype(np.float32)
SCORES = RNG.normal(0, 3, len(LOGITS)).astype(np.float32)
ALPHA = RNG.normal(0, 3, 5)
SECTIONS = {name: ClassifySection(pooling=name, top_k=2, sharpness=4.0) for name in POOLINGS}


def _naive(name: str, p: list[float], w: list[float], s: list[float], a: float) -> float:
    """Pool one class of one bag."""
    total = sum(w)
    if name == "max":
        return max(x * y for x, y in zip(p, w, strict=True))
    if name == "top-k":
        best = sorted((x * y for x, y in zip(p, w, strict=True)), reverse=True)[:2]
        return sum(best) / len(best)
    if name == "log-sum-exp":
        return math.log(sum(y * math.exp(4 * x) for x, y in zip(p, w, strict=True)) / total) / 4
    if name == "linear-softmax":
        return sum(y * x * x for x, y in zip(p, w, strict=True)) / sum(y * x for x, y in zip(p, w, strict=True))
    if name == "noisy-or":
        return 1 - math.prod(1 - x * y for x, y in zip(p, w, strict=True))
    shares = [y * math.exp(a * x if name == "auto" else z) for x, y, z in zip(p, w, s, strict=True)]
    return sum(x * share for x, share in zip(p, shares, strict=True)) / sum(shares)


def _expected(name: str, weights: NDArray[np.float32]) -> NDArray[np.float64]:
    bags = [np.flatnonzero(b == BAGS) for b in range(len(SIZES))]
    return np.array(
        [
            [
                _naive(name, P[rows, k].tolist(), weights[rows].tolist(), SCORES[rows].tolist(), float(ALPHA[k]))
                for k in range(5)
            ]
            for rows in bags
        ]
    )


def _torch(name: Pooling, weights: NDArray[np.float32]) -> NDArray[np.float32]:
    scores = torch.from_numpy(SCORES) if name == "attention" else None
    alpha = torch.tensor(ALPHA, dtype=torch.float32) if name == "auto" else None
    tensors = (torch.from_numpy(LOGITS), scores, torch.from_numpy(BAGS), torch.from_numpy(weights))
    return pool_bags(*tensors, SECTIONS[name], alpha).numpy()


@pytest.mark.parametrize("name", POOLINGS)
@pytest.mark.parametrize("weights", [np.ones_like(WEIGHTS), WEIGHTS], ids=["alike", "weighed"])
def test_torch_and_numpy_match_the_formula(name: Pooling, weights: NDArray[np.float32]) -> None:
    expected = _expected(name, weights)
    np.testing.assert_allclose(_torch(name, weights), expected, rtol=1e-4, atol=1e-6)
    how = TrainedPooling(name, top_k=2, sharpness=4.0, completeness_power=0, alpha={3: ALPHA.tolist()})
    found = pool_as_trained(P.astype(np.float32), FIRST, how, [3] * len(FIRST), weights, SCORES)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    if (weights == 1).all():
        bare = pool_as_trained(P.astype(np.float32), FIRST, how, [3] * len(FIRST), None, SCORES)
        np.testing.assert_allclose(bare, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", POOLINGS)
def test_padding_does_not_change_the_result(name: Pooling) -> None:
    p, present = pad_bags(torch.from_numpy(P.astype(np.float32)), torch.from_numpy(BAGS))
    weights, scores = (pad_bags(torch.from_numpy(v), torch.from_numpy(BAGS))[0] for v in (WEIGHTS, SCORES))
    alpha = torch.tensor(ALPHA, dtype=torch.float32) if name == "auto" else None
    clean = pool(Bags(p, weights, scores, alpha), SECTIONS[name])
    junk_p, junk_scores = p.clone(), scores.clone()
    junk_p[~present], junk_scores[~present] = 0.97, 50.0
    leaf = junk_p.requires_grad_()
    pooled = pool(Bags(leaf, weights, junk_scores, alpha), SECTIONS[name])
    torch.testing.assert_close(pooled, clean)
    (gradient,) = torch.autograd.grad(pooled.sum(), leaf)
    assert torch.isfinite(gradient).all()
    assert (gradient[~present] == 0).all()
    assert (gradient[present] != 0).any()


@pytest.mark.parametrize("name", POOLINGS)
def test_bag_of_one_has_the_probability_of_its_crop(name: Pooling) -> None:
    np.testing.assert_allclose(_torch(name, np.ones_like(WEIGHTS))[0], P[0], rtol=1e-5)


@pytest.mark.parametrize("name", POOLINGS)
def test_pooled_probability_lies_within_bounds(name: Pooling) -> None:
    pooled = _torch(name, np.ones_like(WEIGHTS))
    assert (pooled >= np.minimum.reduceat(P, FIRST) - 1e-6).all()
    highest = np.maximum.reduceat(P, FIRST) if name != "noisy-or" else 1.0
    assert (pooled <= highest + 1e-6).all()


def test_log_sum_exp_lies_between_mean_and_maximum() -> None:
    bags = Bags(torch.rand(3, 6, 2, generator=torch.Generator().manual_seed(0)), torch.ones(3, 6))
    blunt, sharp = (pool(bags, ClassifySection(pooling="log-sum-exp", sharpness=r)) for r in (1e-2, 500.0))
    torch.testing.assert_close(blunt, bags.probabilities.mean(1), atol=2e-3, rtol=0)
    torch.testing.assert_close(sharp, bags.probabilities.amax(1), atol=1e-2, rtol=0)


def test_logits_of_pooled_probabilities_are_finite() -> None:
    p = torch.tensor([0.0, 0.25, 1.0])
    logits = pooled_logits(p)
    assert logits[1].item() == pytest.approx(math.log(1 / 3))
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", POOLINGS)
def test_pooling_of_zeros_and_of_ones(name: Pooling) -> None:
    """Crops of probability 0 give a bag of probability 0, crops of probability 1 one of 1."""
    for p in (0.0, 1.0):
        bags = Bags(torch.full((1, 4, 5), p), torch.ones(1, 4), torch.zeros(1, 4))
        if name == "auto":
            bags = bags._replace(alpha=torch.tensor(ALPHA, dtype=torch.float32))
        how = TrainedPooling(name, top_k=2, sharpness=4.0, completeness_power=0, alpha={0: ALPHA.tolist()})
        flat = np.full((4, 5), p, dtype=np.float32)
        found = pool_as_trained(flat, np.array([0]), how, [0], attention=np.zeros(4, dtype=np.float32))
        np.testing.assert_allclose(found, p, atol=1e-6)
        np.testing.assert_allclose(pool(bags, SECTIONS[name]).numpy(), p, atol=1e-6)


def test_each_bag_is_pooled_with_parameters_of_its_own_fold() -> None:
    alpha = {1: ALPHA.tolist(), 4: (-ALPHA).tolist()}
    how = TrainedPooling("auto", 2, 4.0, 0, alpha)
    p = P.astype(np.float32)
    found = pool_as_trained(p, FIRST, how, [4, 1, 4, 1])
    for bag, fold in enumerate([4, 1, 4, 1]):
        alone = pool_as_trained(p, FIRST, TrainedPooling("auto", 2, 4.0, 0, {fold: alpha[fold]}), [fold] * 4)
        np.testing.assert_array_equal(found[bag], alone[bag])


def test_missing_learned_parameters_raise_an_error() -> None:
    for name in ("auto", "attention"):
        with pytest.raises(UserError, match=r"expected .* found none"):
            pool_as_trained(P.astype(np.float32), FIRST, TrainedPooling(name, 2, 4.0, 0, {}), [0] * 4)
