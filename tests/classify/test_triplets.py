"""Triplets and their loss against naive loops, and ArcFace against its formula."""

import itertools

import numpy as np
import pytest
import torch

from classify.config import ClassifySection, Mining
from classify.losses.triplets import (
    antibody_pairs,
    arcface_loss,
    label_pairs,
    mine_triplets,
    multi_label_triplets,
    new_arcface,
    triplet_loss,
)
from hpa.errors import UserError


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
def test_triplets_equal_a_naive_loop(jaccard: float) -> None:
    targets = np.random.default_rng(3).random((14, 5)) < 0.3
    assert not targets.any(axis=1).all(), "the world should hold an empty target"
    a, p, n = multi_label_triplets(torch.from_numpy(targets), jaccard)
    found = list(zip(a.tolist(), p.tolist(), n.tolist(), strict=True))
    assert found == _naive_triplets(targets, jaccard)
    assert found


def test_overlap_equal_to_the_threshold_is_positive() -> None:
    targets = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    a, _, _ = multi_label_triplets(targets, 1 / 3)
    assert a.tolist() == [0, 1]


def test_triplet_loss_matches_its_formula() -> None:
    embeddings = torch.nn.functional.normalize(torch.randn(10, 3, generator=torch.Generator().manual_seed(1)), dim=1)
    targets = np.random.default_rng(1).random((10, 4)) < 0.4
    points = embeddings.double().numpy()
    violations = [
        float(np.linalg.norm(points[a] - points[p]) - np.linalg.norm(points[a] - points[n]) + 0.3)
        for a, p, n in _naive_triplets(targets, 0.5)
    ]
    active = [violation for violation in violations if violation > 0]
    loss = triplet_loss(
        embeddings, torch.from_numpy(targets), torch.full((10,), -1), ClassifySection(triplet_margin=0.3)
    )
    assert loss.item() == pytest.approx(sum(active) / len(active), rel=1e-4)


@pytest.mark.parametrize("mining", ["all", "semi-hard", "batch-hard"])
def test_loss_without_triplets_is_a_differentiable_zero(mining: Mining) -> None:
    section = ClassifySection(triplet_mining=mining)
    embeddings = torch.nn.functional.normalize(torch.randn(4, 3), dim=1).requires_grad_()
    loss = triplet_loss(embeddings, torch.ones(4, 2), torch.full((4,), -1), section)
    (gradient,) = torch.autograd.grad(loss, embeddings)
    assert loss.item() == 0
    assert torch.count_nonzero(gradient) == 0


def _triplets_of_known(targets: np.ndarray, jaccard: float) -> list[tuple[int, int, int]]:
    """Compare two crops class by class; NaN is unknown."""

    def compare(i: int, j: int) -> tuple[int, int, int, bool]:
        both = own = either = 0
        undecided = False
        for x, y in zip(targets[i], targets[j], strict=True):
            if np.isnan(x) or np.isnan(y):
                undecided |= x == 1 or y == 1
                continue
            both, own, either = both + int(x and y), own + int(x), either + int(x or y)
        return both, own, either, undecided

    found = []
    for a, p, n in itertools.product(range(len(targets)), repeat=3):
        common, _, union, _ = compare(a, p)
        shared, labels, _, undecided = compare(a, n)
        if a != p and common and common / union >= jaccard and not shared and labels and not undecided:
            found.append((a, p, n))
    return found


@pytest.mark.parametrize("seed", range(4))
def test_triplets_use_classes_known_for_both_crops(seed: int) -> None:
    draw = np.random.default_rng(seed)
    targets = (draw.random((10, 5)) < 0.35).astype(np.float32)
    targets[draw.random((10, 5)) < 0.2] = np.nan
    expected = _triplets_of_known(targets, 0.5)
    found = zip(*(t.tolist() for t in multi_label_triplets(torch.from_numpy(targets), 0.5)), strict=True)
    assert list(found) == expected
    assert expected


def _world(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    embeddings = torch.nn.functional.normalize(torch.randn(12, 3, generator=torch.Generator().manual_seed(seed)), dim=1)
    return embeddings, *label_pairs(torch.from_numpy(np.random.default_rng(seed).random((12, 4)) < 0.4), 0.5)


@pytest.mark.parametrize("seed", range(4))
def test_semi_hard_triplets_equal_a_naive_loop(seed: int) -> None:
    embeddings, positive, negative = _world(seed)
    points, margin = embeddings.numpy(), 0.4
    expected = []
    for a, p, n in itertools.product(range(12), repeat=3):
        gap = np.linalg.norm(points[a] - points[n]) - np.linalg.norm(points[a] - points[p])
        if positive[a, p] and negative[a, n] and 0 < gap < margin:
            expected.append((a, p, n))
    found = zip(*(t.tolist() for t in mine_triplets(embeddings, positive, negative, "semi-hard", margin)), strict=True)
    assert list(found) == expected
    assert expected


@pytest.mark.parametrize("seed", range(4))
def test_batch_hard_uses_farthest_positive_and_nearest_negative(seed: int) -> None:
    embeddings, positive, negative = _world(seed)
    points = embeddings.numpy()
    expected = []
    for a in range(12):
        positives = [i for i in range(12) if positive[a, i]]
        negatives = [i for i in range(12) if negative[a, i]]
        if positives and negatives:
            far = max(positives, key=lambda i: np.linalg.norm(points[a] - points[i]))
            near = min(negatives, key=lambda i: np.linalg.norm(points[a] - points[i]))
            expected.append((a, far, near))
    found = zip(*(t.tolist() for t in mine_triplets(embeddings, positive, negative, "batch-hard", 0.2)), strict=True)
    assert list(found) == expected
    assert expected


def test_crops_of_the_same_known_antibody_are_positives() -> None:
    pairs = antibody_pairs(torch.tensor([4, -1, 4, -1, 7]))
    assert torch.nonzero(pairs).tolist() == [[0, 2], [2, 0]]


def test_with_antibody_positives_other_crops_with_the_same_labels_are_ignored() -> None:
    section = ClassifySection(triplet_positives="antibody", triplet_margin=0.5)
    embeddings = torch.nn.functional.normalize(torch.tensor([[1.0, 0], [0.8, 0.6], [0, 1.0], [1.0, 0.1]]), dim=1)
    targets = torch.tensor([[1.0, 0], [1, 0], [0, 1], [1, 0]])
    antibodies = torch.tensor([5, 5, 6, 8])
    d01, d02, d12 = (float((embeddings[a] - embeddings[b]).norm()) for a, b in [(0, 1), (0, 2), (1, 2)])
    active = [v for v in (d01 - d02 + 0.5, d01 - d12 + 0.5) if v > 0]
    loss = triplet_loss(embeddings, targets, antibodies, section)
    assert loss.item() == pytest.approx(sum(active) / len(active), rel=1e-4)


def test_a_crop_without_labels_is_only_ever_a_negative() -> None:
    targets = torch.tensor([[0.0, 0], [0, 0], [1, 0], [1, 0], [0, 1]])
    positive, negative = label_pairs(targets, 0.5)
    assert not positive[:2].any()
    assert not negative[:2].any()
    assert not positive[:, :2].any()
    assert negative[2:, :2].all()


@pytest.mark.parametrize("mining", ["all", "semi-hard", "batch-hard"])
def test_crops_of_one_antibody_without_labels_are_no_anchors(mining: Mining) -> None:
    section = ClassifySection(triplet_positives="antibody", triplet_margin=2.0, triplet_mining=mining)
    embeddings = torch.nn.functional.normalize(torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    targets = torch.tensor([[0.0, 0], [0, 0], [1, 0], [0, 1]])
    assert triplet_loss(embeddings, targets, torch.tensor([5, 5, 6, 7]), section).item() == 0


def test_arcface_matches_its_formula() -> None:
    rng = np.random.default_rng(0)
    section = ClassifySection(embedding_dim=3, arcface_weight=1, arcface_margin=20, arcface_scale=8)
    antibodies = np.array([0, 2, -1, 1, 2, 2])
    head = new_arcface(antibodies, section, seed=1)
    (directions,) = head.parameters()
    embeddings = torch.from_numpy(rng.normal(size=(6, 3)).astype(np.float32)).requires_grad_()
    loss = arcface_loss(head, embeddings, torch.from_numpy(antibodies))
    w = directions.detach().numpy().astype(np.float64)
    w /= np.linalg.norm(w, axis=0)
    expected = []
    for x, own in zip(embeddings.detach().numpy().astype(np.float64), antibodies, strict=True):
        if own < 0:
            continue
        angles = np.arccos(x @ w / np.linalg.norm(x))
        assert angles[own] + np.radians(20) < np.pi, "the formula holds below 180 degrees"
        angles[own] += np.radians(20)
        logits = 8 * np.cos(angles)
        expected.append(np.log(np.exp(logits).sum()) - logits[own])
    assert loss.item() == pytest.approx(np.mean(expected), rel=1e-5)
    loss.backward()  # type: ignore[no-untyped-call]
    assert embeddings.grad is not None
    assert (embeddings.grad[2] == 0).all(), "the crop of an unknown antibody does not count"
    assert torch.equal(next(new_arcface(antibodies, section, seed=1).parameters()), directions)


def test_arcface_without_antibodies() -> None:
    section = ClassifySection(embedding_dim=3, arcface_weight=1)
    embeddings = torch.ones(2, 3, requires_grad=True)
    head = new_arcface(np.array([0, 1]), section, seed=0)
    arcface_loss(head, embeddings, torch.tensor([-1, -1])).backward()  # type: ignore[no-untyped-call]
    assert embeddings.grad is not None
    assert embeddings.grad.abs().sum() == 0
    with pytest.raises(UserError, match="expected images with antibodies"):
        new_arcface(np.array([-1, -1]), section, seed=0)
    with pytest.raises(ValueError, match="embedding_dim above 0"):
        ClassifySection(arcface_weight=1)
