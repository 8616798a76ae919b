"""The losses against their formulas written out, and the triplets against a loop."""

import itertools
import math

import numpy as np
import pytest
import torch

from classify.config import ClassifySection
from classify.losses import focal_loss
from classify.model import Outputs
from classify.objective import batch_loss
from classify.triplets import multi_label_triplets, triplet_loss


def _naive_focal(logits: torch.Tensor, targets: torch.Tensor, gamma: float, alpha: float) -> float:
    losses = []
    for z, y in zip(logits.flatten().tolist(), targets.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-z))
        q = p if y else 1 - p
        weight = 1.0 if alpha < 0 else alpha if y else 1 - alpha
        losses.append(-weight * (1 - q) ** gamma * math.log(q))
    return float(np.mean(losses))


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, -1.0), (0.5, 0.25), (0.0, 0.9)])
def test_focal_loss_is_its_formula(gamma: float, alpha: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 4, generator=generator) * 3
    targets = (torch.rand(5, 4, generator=generator) < 0.3).float()
    expected = _naive_focal(logits, targets, gamma, alpha)
    assert focal_loss(logits, targets, gamma, alpha).item() == pytest.approx(expected, rel=1e-5)


def test_focal_loss_without_focus_is_cross_entropy() -> None:
    logits = torch.tensor([[0.3, -2.0], [4.0, 0.0]])
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
    assert focal_loss(logits, targets, gamma=0.0).item() == pytest.approx(expected.item(), rel=1e-6)


def test_focal_loss_of_half_precision_is_computed_in_full() -> None:
    loss = focal_loss(torch.tensor([[-20.0]], dtype=torch.bfloat16), torch.tensor([[1.0]]), gamma=0.0)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(20.0, rel=1e-5)


def _naive_triplets(targets: np.ndarray, jaccard: float) -> list[tuple[int, int, int]]:
    sets = [set(np.flatnonzero(row)) for row in targets]
    found = []
    for a, p, n in itertools.product(range(len(sets)), repeat=3):
        if a == p or not sets[a] or not sets[a] & sets[p] or sets[a] & sets[n]:
            continue
        if len(sets[a] & sets[p]) >= jaccard * len(sets[a] | sets[p]):
            found.append((a, p, n))
    return found


@pytest.mark.parametrize("jaccard", [0.01, 0.5, 1.0])
def test_triplets_are_those_of_a_loop(jaccard: float) -> None:
    targets = np.random.default_rng(3).random((14, 5)) < 0.3
    assert not targets.any(axis=1).all(), "the world should hold an empty target"
    a, p, n = multi_label_triplets(torch.from_numpy(targets), jaccard)
    found = list(zip(a.tolist(), p.tolist(), n.tolist(), strict=True))
    assert found == _naive_triplets(targets, jaccard)
    assert found


def test_an_overlap_of_exactly_the_threshold_is_enough() -> None:
    targets = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    a, _, _ = multi_label_triplets(targets, 1 / 3)
    assert a.tolist() == [0, 1]


def test_triplet_loss_is_its_formula() -> None:
    embeddings = torch.nn.functional.normalize(torch.randn(10, 3, generator=torch.Generator().manual_seed(1)), dim=1)
    targets = np.random.default_rng(1).random((10, 4)) < 0.4
    points = embeddings.double().numpy()
    violations = [
        float(np.linalg.norm(points[a] - points[p]) - np.linalg.norm(points[a] - points[n]) + 0.3)
        for a, p, n in _naive_triplets(targets, 0.5)
    ]
    active = [violation for violation in violations if violation > 0]
    loss = triplet_loss(embeddings, torch.from_numpy(targets), jaccard=0.5, margin=0.3)
    assert loss.item() == pytest.approx(sum(active) / len(active), rel=1e-4)


def test_no_triplet_gives_a_zero_that_can_be_differentiated() -> None:
    embeddings = torch.nn.functional.normalize(torch.randn(4, 3), dim=1).requires_grad_()
    loss = triplet_loss(embeddings, torch.ones(4, 2), jaccard=0.5, margin=0.2)
    (gradient,) = torch.autograd.grad(loss, embeddings)
    assert loss.item() == 0
    assert torch.count_nonzero(gradient) == 0


def test_the_objective_adds_the_weighted_triplet_loss_to_the_focal_loss() -> None:
    section = ClassifySection(embedding_dim=3, triplet_weight=0.25, focal_gamma=1.0)
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(8, 3, generator=generator)
    embeddings = torch.nn.functional.normalize(torch.randn(8, 3, generator=generator), dim=1)
    targets = torch.eye(3)[[0, 0, 1, 1, 2, 2, 0, 1]]
    focal = focal_loss(logits, targets, gamma=1.0)
    triplets = triplet_loss(embeddings, targets, section.triplet_jaccard, section.triplet_margin)
    assert triplets > 0
    assert batch_loss(Outputs(logits, None), targets, section) == focal
    assert batch_loss(Outputs(logits, embeddings), targets, section) == focal + 0.25 * triplets


def test_what_is_unknown_does_not_count() -> None:
    """The mean over the known entries, by an explicit loop; nothing known is a zero that can be differentiated."""
    draw = torch.Generator().manual_seed(3)
    logits = torch.randn(6, 4, generator=draw, requires_grad=True)
    targets = (torch.rand(6, 4, generator=draw) < 0.4).float()
    unknown = torch.rand(6, 4, generator=draw) < 0.3
    masked = targets.masked_fill(unknown, float("nan"))
    single = [
        focal_loss(logits[i : i + 1, c : c + 1], targets[i : i + 1, c : c + 1], 2.0)
        for i in range(6)
        for c in range(4)
        if not unknown[i, c]
    ]
    loss = focal_loss(logits, masked, 2.0)
    assert loss.item() == pytest.approx(torch.stack(single).mean().item(), rel=1e-5)
    loss.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert (logits.grad[unknown] == 0).all()
    assert logits.grad.isfinite().all()
    assert focal_loss(logits, torch.full_like(targets, float("nan")), 2.0).item() == 0
